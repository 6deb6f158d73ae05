"""The create of a container, whole or not at all."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from shimpy.core.cgroup import Cgroup, Leftovers
from shimpy.core.container.operation import undo
from shimpy.core.container.process import Process
from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runtime
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.ids import ContainerId
from shimpy.core.runtime.state import has_state, may_have_state, remove_copies
from shimpy.errors import AlreadyExistsError, NotFoundError, ShimError

if TYPE_CHECKING:
    from shimpy.core.container.journaled import ContainerJournal

_log = logging.getLogger(__name__)

# Seconds for the runtime to remove what a failed create has left.
UNDO_TIMEOUT = 5.0


class CreateCommand(Protocol):
    """The runtime's command that makes a container, such as `Runtime.create`, with its own options."""

    def __call__(
        self, container_id: str, bundle: str, stdio: tuple[int, int, int], *, console_socket: str | None
    ) -> Awaitable[int]: ...


class CreateOptions(NamedTuple):
    """How the runtime makes a container.

    Attributes:
        no_pivot: it does not use pivot_root(2), for a rootfs on a ramdisk.
        no_new_keyring: it does not make a session keyring (session-keyring(7)).
        checkpoint: options of its `restore`, by which the container's start brings it back; until then the
            container has no process.
    """

    no_pivot: bool = False
    no_new_keyring: bool = False
    checkpoint: Sequence[str] | None = None

    def command(self, runtime: Runtime, bundle: Bundle) -> CreateCommand:
        """Returns the runtime's command that makes the container of a bundle."""
        if self.checkpoint is not None:
            return partial(runtime.restore, options=self.checkpoint)
        return partial(
            runtime.create,
            no_pivot=self.no_pivot,
            no_new_keyring=self.no_new_keyring,
            sets_oom_score=bundle.sets_oom_score,
        )


class Create:
    """One try to create a container.

    Args:
        container_id: the id it is to have.
        bundle: what it is made from.
        runtime: whose commands remove what is left of it.
        reaper: who waits for its init.
        command: makes it, and returns the pid of its init.
        journal: is told before it is made; None if there is none.

    The id is taken from now on, until `release` is called.

    Raises:
        AlreadyExistsError: the runtime, or another supervisor of this process, has a container of that id.
    """

    def __init__(
        self,
        container_id: str,
        bundle: Bundle,
        runtime: Runtime,
        reaper: Reaper,
        command: CreateCommand,
        journal: ContainerJournal | None = None,
    ) -> None:
        self._id = container_id
        self._bundle = bundle
        self._runtime = runtime
        self._reaper = reaper
        self._command = command
        self._journal = journal
        self._taken = ContainerId(runtime, container_id)
        if has_state(runtime, container_id):
            self.release()
            raise AlreadyExistsError(
                f"id: {runtime.name} has a container {container_id} already; delete it or take another id"
            )

    def release(self) -> None:
        """Lets others take the id: there is no such container, or no longer. Idempotent."""
        self._taken.release()

    async def run(self, init: Process) -> Cgroup:
        """Creates the container, with `init` as its first process.

        Returns:
            The container's cgroup.

        Raises:
            ShimError: the runtime refused, or did not do what it said.
        """
        try:
            await init.io.prepare()
        except BaseException:
            init.release()
            raise
        leftovers = Leftovers.before(self._bundle.spec, self._id)
        began = time.time()
        if self._journal is not None:
            self._journal.intend_create(init, leftovers.recorded(), began)
        cgroup: Cgroup | None = None
        try:
            with self._reaper.spawning():
                pid = await self._command(
                    self._id, self._bundle.directory, init.io.fds, console_socket=init.io.console_socket
                )
                init.track(self._reaper, pid)
            cgroup = Cgroup.of(pid, made=leftovers)
            await init.io.attach()
        except BaseException as error:
            remove_state = not isinstance(error, AlreadyExistsError)
            await undo(self._undo(init, cgroup, leftovers, began, remove_state=remove_state))
            if self._journal is not None:
                self._journal.undone("create", init)
            raise
        self._taken.created()
        return cgroup

    async def _undo(
        self, init: Process, cgroup: Cgroup | None, leftovers: Leftovers, began: float, *, remove_state: bool
    ) -> None:
        """Removes all that the create has made.

        Args:
            init: its process.
            cgroup: the container's, if it has come so far.
            leftovers: the cgroups that the runtime was to make.
            began: when the create began, in seconds since the epoch.
            remove_state: what the runtime holds of the container is ours.
        """
        release = self._reaper.claim(leftovers.had, watch=False)
        try:
            if cgroup is not None:
                await cgroup.kill()
            await init.kill()
            if remove_state:
                await self._undo_state(init, began)
                remove_copies(self._runtime, self._id)
            await leftovers.remove()
        finally:
            leftovers.remove_above()
            release()
            await init.io.finish()
            init.release()

    async def _undo_state(self, init: Process, began: float) -> None:
        try:
            async with asyncio.timeout(UNDO_TIMEOUT):
                await self._remove_state(init, began)
        except (ShimError, TimeoutError) as error:
            _log.warning("cannot remove what is left of container %s: %s", self._id, error)

    async def _remove_state(self, init: Process, began: float) -> None:
        """Removes what the runtime holds of a container of which it is not known how far it came."""
        try:
            state = await self._runtime.state(self._id)
        except NotFoundError:
            # A command that was killed early leaves a directory that the runtime itself does not see.
            if may_have_state(self._runtime, self._id):
                await self._runtime.delete(self._id, force=True)
            return
        except ShimError as error:
            # It may have failed at nothing: of an id that no directory can have it says the same each time.
            if has_state(self._runtime, self._id):
                raise
            _log.info(
                "%s does not tell what is left of container %s: %s", self._runtime.name, self._id, error
            )
            return
        pid = state.get("pid", 0)
        if isinstance(pid, int) and pid > 0 and pid != init.pid:
            if self._reaper.is_child(pid):
                if init.child is None:
                    init.track(self._reaper, pid)
                    await init.kill()
            elif os.path.exists(f"/proc/{pid}"):
                _log.warning("container %s belongs to another shim; it is left alone", self._id)
                return
        elif not self._is_ours(state, began):
            _log.warning("container %s was there before; it is left alone", self._id)
            return
        await self._runtime.delete(self._id, force=True)

    def _is_ours(self, state: Mapping[str, Any], began: float) -> bool:
        """Whether a container without a process is the one that was being created.

        Args:
            state: what the runtime says of it (runtime-spec, runtime.md).
            began: when the create began, in seconds since the epoch.
        """
        if self._runtime.state_directory(self._id) is not None:
            return True  # there was nothing before
        if os.path.realpath(str(state.get("bundle", ""))) != os.path.realpath(self._bundle.directory):
            return False
        try:
            # Not part of the runtime-spec's `state`, but runc and crun return it.
            return datetime.fromisoformat(str(state["created"])).timestamp() >= began
        except (KeyError, ValueError):
            return True
