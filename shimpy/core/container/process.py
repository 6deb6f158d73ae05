"""One process of a container: what init and exec'd processes have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from shimpy.core.cgroup import Tree
from shimpy.core.container.operation import Operation
from shimpy.core.reaper import Child, Reaper
from shimpy.core.stdio import ProcessIO

logger = logging.getLogger(__name__)


class Process:
    """A process that the runtime has started, until it is deleted.

    Its exit is told in its place: an exit that is reaped before the process itself has been
    announced waits for `announce`.

    Args:
        io: what it reads and writes.
        group: its own cgroup, where it has one.
        on_exit: called in the event loop when the process has exited and been announced.
        on_death: called as soon as it has exited, announced or not.

    Attributes:
        io: what it reads and writes.
        child: the reaper's hold on it, once the runtime has told its pid.
        deletion: its Delete, while one is under way.
        group: its own cgroup, until that is removed.
    """

    __slots__ = (
        "_announced",
        "_on_death",
        "_on_exit",
        "_told",
        "_waiters",
        "child",
        "deletion",
        "group",
        "io",
    )

    def __init__(
        self,
        io: ProcessIO,
        group: Tree | None,
        on_exit: Callable[[Process], None],
        on_death: Callable[[], None] | None = None,
    ) -> None:
        self.io = io
        self.child: Child | None = None
        self.deletion: Operation[int] | None = None
        self.group = group
        self._on_exit = on_exit
        self._on_death = on_death
        self._announced = False
        self._told = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def pid(self) -> int:
        """Its process id; 0 until the runtime has told it."""
        return 0 if self.child is None else self.child.pid

    @property
    def exit_status(self) -> int | None:
        """None while it lives, then the exit code, or 128 + the number of the signal."""
        return None if self.child is None else self.child.exit_status

    @property
    def has_execed(self) -> bool:
        """Whether it has begun another program than the one that forked it; see `reaper.Child`."""
        return self.child is not None and self.child.has_execed

    @property
    def final_status(self) -> int:
        """The exit status of a process that has exited."""
        if self.exit_status is None:
            raise RuntimeError(f"process {self.pid} has not exited")
        return self.exit_status

    @property
    def exit_due(self) -> bool:
        """True when its exit may be told, and has not been."""
        return self._announced and not self._told and self.exit_status is not None

    def track(self, reaper: Reaper, pid: int) -> None:
        """Takes the pid that the runtime told; from now on its exit is noticed."""
        self.child = reaper.track(pid, self._exited)

    def announce(self) -> None:
        """Says that what precedes its exit has been published; an exit that waited is told now."""
        self._announced = True
        self._tell()

    async def exited(self) -> None:
        """Waits until it has been reaped, told or not."""
        while self.child is not None and self.child.exit_status is None:
            await self._next()

    async def told(self) -> None:
        """Waits until its exit has been told."""
        while not self._told:
            await self._next()

    def told_exit(self) -> None:
        """Notes that its exit is published, and wakes who waits for that."""
        self._told = True
        self._wake()

    async def kill(self) -> None:
        """Kills it with everything that it started, and waits until it has been reaped.

        With a cgroup of its own nothing escapes. Without one, what left it for another parent,
        a double-forked daemon for instance, lives on until the container is deleted.
        """
        if self.child is not None:
            self.child.kill()
        if (group := self.group) is not None:  # it is let go of when the process exits
            await group.kill()
            await group.prune()
        await self.exited()

    def let_go(self) -> None:
        """Removes its cgroup, unless something that it started still runs there."""
        if self.group is not None and self.group.remove():
            self.group = None

    def release(self) -> None:
        """Closes what it read and wrote and lets go of its cgroup. Twice is harmless."""
        self.io.close()
        self.let_go()

    def _exited(self, status: int) -> None:
        logger.info("process %d exited with status %d", self.pid, status)
        self.io.process_exited()
        self._wake()
        if self._on_death is not None:
            self._on_death()
        self._tell()

    def _tell(self) -> None:
        if self.exit_due:
            self._on_exit(self)

    async def _next(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
