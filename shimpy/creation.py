"""The create of a container, whole or not at all."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any

from .cgroup import Cgroup, Leftovers
from .errors import AlreadyExistsError, NotFoundError, ShimError
from .process import Process
from .reaper import Reaper
from .runtime import Runtime
from .runtime.state import has_state, remove_copies

logger = logging.getLogger(__name__)

UNDO_TIMEOUT = 5.0
"""Seconds for the runtime to remove what a failed create has left."""


class Creation:
    """One try to create a container.

    Args:
        container_id: the id it is to have.
        bundle: the absolute path of its bundle.
        spec: the bundle's configuration.
        runtime: whose commands create it and remove what is left.
        reaper: who waits for its init.

    Raises:
        AlreadyExistsError: the runtime has a container of that id.
    """

    def __init__(
        self, container_id: str, bundle: str, spec: Mapping[str, Any], runtime: Runtime, reaper: Reaper
    ) -> None:
        self._id = container_id
        self._bundle = bundle
        self._spec = spec
        self._runtime = runtime
        self._reaper = reaper
        if has_state(runtime, container_id):
            raise AlreadyExistsError(
                f"id: {runtime.name} has a container {container_id} already; delete it or take another id"
            )

    async def run(self, init: Process, *, no_pivot: bool) -> Cgroup:
        """Creates the container, with `init` as its first process.

        Returns:
            The container's cgroup.

        Raises:
            ShimError: the runtime refused, or did not do what it said.
        """
        leftovers = Leftovers.before(self._spec, self._id)
        cgroup: Cgroup | None = None
        try:
            with self._reaper.window():
                pid = await self._runtime.create(
                    self._id,
                    self._bundle,
                    init.io.fds,
                    console_socket=init.io.console_socket,
                    no_pivot=no_pivot,
                )
                init.track(self._reaper, pid)
            cgroup = Cgroup.of(pid, made=leftovers)
            await init.io.attach()
        except BaseException as error:
            release = self._reaper.claim(leftovers.had, watch=False)
            try:
                if cgroup is not None:
                    await cgroup.kill()
                await init.kill()
                if not isinstance(error, AlreadyExistsError):
                    await self._undo_state(init)
                    remove_copies(self._runtime, self._id)
                await leftovers.remove()
            finally:
                leftovers.remove_above()
                release()
                init.release()
            raise
        return cgroup

    async def _undo_state(self, init: Process) -> None:
        try:
            async with asyncio.timeout(UNDO_TIMEOUT):
                await self._remove_state(init)
        except (ShimError, TimeoutError) as error:
            logger.warning("cannot remove what is left of container %s: %s", self._id, error)

    async def _remove_state(self, init: Process) -> None:
        """Removes what the runtime holds of a container of which it is not known how far it came."""
        try:
            pid = (await self._runtime.state(self._id)).get("pid", 0)
        except NotFoundError:
            # A command that was killed early leaves a folder that the runtime itself does not see.
            if has_state(self._runtime, self._id):
                await self._runtime.delete(self._id, force=True)
            return
        except ShimError as error:
            # It may have failed at nothing: of an id that no folder can have it says the same each time.
            if has_state(self._runtime, self._id):
                raise
            logger.info(
                "%s does not tell what is left of container %s: %s", self._runtime.name, self._id, error
            )
            return
        if isinstance(pid, int) and pid > 0 and init.child is None:
            if self._reaper.is_child(pid):
                init.track(self._reaper, pid)
                await init.kill()
            elif os.path.exists(f"/proc/{pid}"):
                logger.warning("container %s is somebody else's; it is left alone", self._id)
                return
        await self._runtime.delete(self._id, force=True)
