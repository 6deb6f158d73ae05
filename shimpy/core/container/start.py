"""The start of a created container: whether it took effect, however its command ended."""

from __future__ import annotations

import asyncio
import contextlib

from shimpy.core.container.process import Process
from shimpy.core.runtime import Runtime
from shimpy.errors import ShimError

# Seconds that a start command may take longer than its call, or than the life of what it started.
GRACE = 0.5


class Start:
    """Lets a created container's process run.

    It cannot be undone, and its command can fail, or be killed, after its work as well as before.
    So it is asked of the process itself whether it has begun.

    Args:
        container_id: a container that has just been created.
        init: its init, which is the runtime's own program until it is started.
        runtime: whose command starts it.

    Attributes:
        begun: whether the container's own program runs, or has run.
    """

    def __init__(self, container_id: str, init: Process, runtime: Runtime) -> None:
        self.begun = False
        self._id = container_id
        self._init = init
        self._runtime = runtime
        # Init is a fork of the runtime that calls execve(2) once, for the container's own program. Of
        # a runtime that gives it a program of its own before, this tells nothing.
        self._is_fork = False
        self._in_doubt = False

    async def run(self) -> None:
        """Starts it; when this raises, `begun` says whether it had an effect all the same.

        Called off too late, it completes.

        Raises:
            ShimError: the runtime refused.
        """
        if not self._in_doubt:
            self._in_doubt = True
            self._is_fork = not self._init.has_execed
        elif self._runs():
            self.begun = True
            return
        command = asyncio.ensure_future(self._runtime.start(self._id))
        try:
            await asyncio.wait([command])
        except asyncio.CancelledError:
            # Killed at the wrong moment, the command would take init with it: it has let go of the
            # FIFO that init waits in but not read from it. So it may end by itself, if it does.
            await asyncio.wait([command], timeout=GRACE)
            command.cancel()
            await asyncio.wait([command])
            if command.cancelled():
                self.begun = self._runs()
                if self.begun:
                    return
                raise
        try:
            command.result()
        except ShimError:
            # To be called off meanwhile, by the death of what has begun for instance, changes nothing.
            asked = asyncio.ensure_future(self._has_begun())
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([asked])
            self.begun = await asked
            raise
        self.begun = True

    async def _has_begun(self) -> bool:
        if self._runs():
            return True
        # Init may be on its way from the runtime's program to its own; the runtime knows which.
        try:
            async with asyncio.timeout(GRACE):
                if (await self._runtime.state(self._id)).get("status") == "running":
                    return True
        except (ShimError, TimeoutError):
            pass
        # By now it may have got there, and have ended as well.
        return self._runs()

    def _runs(self) -> bool:
        """Whether it is certain that init has left the runtime's own program for the container's."""
        return self._is_fork and self._init.has_execed
