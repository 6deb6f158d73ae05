"""A cgroup and all below it, as one thing that can be killed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import ClassVar, Self

from shimpy.cgroup.mounts import StrPath, below, listed, read, write
from shimpy.cgroup.notify import FileWatch, flat
from shimpy.errors import InternalError

_log = logging.getLogger(__name__)

_BATCH = 128  # processes signalled before others get the event loop
_HELD = 64  # pidfds kept to await; when those are gone, the rest is looked at again
_SWEEPS = 100  # of one strike; a tree that cannot be frozen may outrun it, the next goes on
_PATIENCE = (0.01, 1.0)  # seconds, growing from one to the other, until the next strike


class Tree:
    """A cgroup and all cgroups below it; this class itself for a hierarchy that cannot freeze.

    What is killed here is whatever the kernel lists as a member, so double forks, new sessions and
    an init that has died make no difference: only the writer of another cgroup's cgroup.procs
    leaves. That is root with a writable cgroup mount (a privileged container with one can move a
    process out of its exec's cgroup, with the host's mount also out of the container's) and who
    has been asked to from outside.

    Args:
        path: the directory of the cgroup.
        refuge: a cgroup of the same hierarchy that is never frozen, ours (version 1 only).
        runtime_args: see the attribute.

    Attributes:
        path: the directory of the cgroup.
        runtime_args: what the runtime's `exec` needs to start a process in this cgroup; empty
            for the container's own.
    """

    # What `runc exec --cgroup` wants before the name; None where there are no cgroups for execs.
    _prefix: ClassVar[str | None] = None

    def __init__(
        self, path: StrPath, *, refuge: StrPath | None = None, runtime_args: Iterable[str] = ()
    ) -> None:
        self.path = os.fspath(path)
        self.runtime_args = list(runtime_args)
        self._refuge = refuge

    def pids(self) -> list[int]:
        """Returns all processes in the tree that are not zombies."""
        return [pid for directory in below(self.path) for pid in listed(directory)]

    def populated(self) -> bool:
        """Returns whether there is any process in the tree that is not a zombie."""
        return bool(self.pids())

    def frozen(self) -> bool:
        """Returns whether the tree is frozen, or about to be."""
        return False

    def thaw(self) -> None:
        """Lets everything in the tree go on that nothing above it holds."""
        self._thaw()

    def remove(self) -> bool:
        """Removes the cgroups of the tree, those below first, as far as nothing runs in them.

        Returns:
            Whether they are all gone; also when they were before.
        """
        try:
            for directory in reversed(below(self.path)):
                with suppress(FileNotFoundError):
                    os.rmdir(directory)
        except OSError:
            return False
        return True

    def child(self, name: str) -> Self | None:
        """Makes a cgroup below this one, for one exec'd process and all that it will start.

        Returns:
            Its tree, to be removed by the caller; None where none can be made (a read-only mount,
            a limit on cgroups, a container that has gone). A process that is then started without
            shares the container's, and what it leaves behind when it exits cannot be told from
            other processes of the container: it is killed with the container.
        """
        if self._prefix is None:
            return None
        arguments = ["--cgroup", self._prefix + name]
        tree = type(self)(self._file(name), refuge=self._refuge, runtime_args=arguments)
        if not tree.remove():  # of a shim that was killed
            return None
        try:
            os.mkdir(tree.path)
        except OSError as error:
            _log.debug("no cgroup of its own for %s: %s", name, error)
            return None
        if not tree._fit():
            tree.remove()
            return None
        return tree

    async def kill(self) -> None:
        """Sends SIGKILL to all that is in the tree and returns once all of it has left.

        That is just before it can be waited for: files are closed and memory is given back, the
        exit status follows.

        Frozen processes die too, whether the tree itself is frozen or one that it is part of; in
        the latter case (the exec of a paused container) the rest stays frozen. The tree itself is
        thawed. A process in an uninterruptible sleep is waited for, at no cost to speak of: a
        caller that will not wait so long sets a timeout, and cancelling leaves nothing behind.

        Raises:
            InternalError: the kernel refused, or this process is in the tree itself.
        """
        pause, longest = _PATIENCE
        while self.populated():
            self._members()  # before the tree is frozen: that would be the end of us
            dying: list[int] = []
            try:
                await self._strike(dying)
                await self._emptied(dying, pause)
            except OSError as error:
                raise InternalError(f"cannot kill the processes in {self.path}: {error}") from error
            finally:
                for pidfd in dying:
                    os.close(pidfd)
            pause = min(2 * pause, longest)

    async def _strike(self, dying: list[int]) -> None:
        """Signals every process once; freezing keeps a fork bomb from outrunning it.

        Nothing escapes between being listed and being signalled: a fork that is under way when
        its parent is sent SIGKILL fails, or its child has been listed before the parent is gone.
        """
        struck: set[int] = set()
        self._freeze()
        try:
            for _ in range(_SWEEPS):
                fresh = [pid for pid in self.pids() if pid not in struck]
                if not fresh:
                    break
                for start in range(0, len(fresh), _BATCH):
                    batch = fresh[start : start + _BATCH]
                    self._signal(batch, dying)
                    struck.update(batch)
                    await asyncio.sleep(0)
        finally:
            self._thaw()
        await self._release(struck)

    def _signal(self, pids: list[int], dying: list[int]) -> None:
        opened: dict[int, int] = {}
        try:
            for pid in pids:
                with suppress(ProcessLookupError):
                    opened[pid] = os.pidfd_open(pid)
            # A pid that is listed now, after its pidfd was opened, is that of the pidfd's process
            # unless that one is dead: one that took the pid over cannot be hit.
            members = self._members()
            for pid in opened.keys() & members:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(opened[pid], signal.SIGKILL)
                if len(dying) < _HELD:
                    dying.append(opened.pop(pid))
        finally:
            for pidfd in opened.values():
                os.close(pidfd)

    def _members(self) -> set[int]:
        members = set(self.pids())
        if os.getpid() in members:
            raise InternalError(f"refusing to kill in {self.path}: shimpy itself runs there")
        return members

    async def _emptied(self, dying: list[int], seconds: float) -> None:
        """Waits until all those have died, at most for so long.

        Why not longer: version 1 tells nobody that the tree has been frozen meanwhile (a Pause at
        the same time), which keeps what has been sent SIGKILL from dying.
        """
        alive = set(dying)
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def died(pidfd: int) -> None:
            loop.remove_reader(pidfd)
            alive.discard(pidfd)
            if not alive and not done.done():
                done.set_result(None)

        for pidfd in dying:
            loop.add_reader(pidfd, died, pidfd)  # readable once it is a zombie: pidfd_open(2)
        try:
            async with asyncio.timeout(seconds):
                await done
        except TimeoutError:
            pass
        finally:
            for pidfd in alive:
                loop.remove_reader(pidfd)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _freeze(self) -> None:
        """Begins to stop all processes of the tree."""

    def _thaw(self) -> None:
        """Lets them go on."""

    async def _release(self, struck: set[int]) -> None:
        """Lets those die that a freezer outside the tree holds."""

    def _fit(self) -> bool:
        """Returns whether processes can be put into this cgroup, which has just been made."""
        return True


class FreezerTree(Tree):
    """A tree of version 1's freezer hierarchy.

    See Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst of the kernel.
    """

    _prefix = "freezer:"  # in the other hierarchies the exec stays where the container is

    def frozen(self) -> bool:
        """Returns whether the tree is frozen, or about to be."""
        return read(self._file("freezer.state")).strip() in ("FREEZING", "FROZEN")

    def _freeze(self) -> None:
        write(self._file("freezer.state"), "FROZEN")

    def _thaw(self) -> None:
        for directory in below(self.path):
            write(os.path.join(directory, "freezer.state"), "THAWED")

    async def _release(self, struck: set[int]) -> None:
        # A frozen task of version 1 does not see SIGKILL. It cannot be thawed alone while a cgroup
        # above is frozen, but moving it out thaws it: it dies of the signal that waits for it
        # before it gets back to its own code. Frozen, it cannot exit and leave its pid to another.
        while self._refuge and (frozen := struck.intersection(self._frozen_from_above())):
            with suppress(ProcessLookupError):
                write(os.path.join(self._refuge, "cgroup.procs"), str(frozen.pop()))
            await asyncio.sleep(0)

    def _frozen_from_above(self) -> list[int]:
        if read(self._file("freezer.parent_freezing")).strip() != "1":
            return []
        return self.pids()


class UnifiedTree(Tree):
    """A tree of version 2's hierarchy: Documentation/admin-guide/cgroup-v2.rst of the kernel."""

    _prefix = ""

    def populated(self) -> bool:
        """Returns whether there is any process in the tree that is not a zombie."""
        return flat(read(self._file("cgroup.events"))).get("populated", 0) == 1

    def frozen(self) -> bool:
        """Returns whether the tree is frozen, or about to be."""
        return read(self._file("cgroup.freeze")).strip() == "1"

    def _fit(self) -> bool:
        return read(self._file("cgroup.type")).strip() == "domain"

    def _freeze(self) -> None:
        write(self._file("cgroup.freeze"), "1")

    def _thaw(self) -> None:
        write(self._file("cgroup.freeze"), "0")

    async def _strike(self, dying: list[int]) -> None:
        # Reaches what is frozen, and what is being forked. Linux 5.14; a threaded cgroup refuses.
        with suppress(OSError):
            if write(self._file("cgroup.kill"), "1"):
                return
        await super()._strike(dying)

    async def _emptied(self, dying: list[int], seconds: float) -> None:
        empty = asyncio.Event()

        def changed() -> None:
            if not self.populated():
                empty.set()

        try:
            watch = FileWatch(self._file("cgroup.events"), changed)
        except FileNotFoundError:
            return
        try:
            changed()
            async with asyncio.timeout(seconds):
                await empty.wait()
        except TimeoutError:
            pass
        finally:
            watch.close()
