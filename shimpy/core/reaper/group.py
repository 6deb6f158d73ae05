"""The process group of a command: who of it lives on when the command has failed, and what those start."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from shimpy.core.reaper import procfs
from shimpy.core.reaper.registry import registry


class CommandGroup:
    """Knows which children of ours are what a command has left behind.

    A runtime that is killed leaves helpers behind, and these may start more before they notice. One that
    has entered a container's pid namespace has left the group, and keeps that container's init from dying
    until it is reaped (pid_namespaces(7)).

    The number of a group is nobody else's as long as a process in it is not reaped. So those that live on
    are not, until it is known what they have started.

    Args:
        leader: the command's pid, which leads the group.
        begun: when it was started, or a moment before; see `procfs.now`.
    """

    __slots__ = ("_begun", "_leader", "_living", "_loop", "_until")

    def __init__(self, leader: int, begun: int) -> None:
        self._leader = leader
        self._begun = begun
        self._until = begun
        self._living: dict[int, int] = {}  # the pid for each pidfd
        self._loop: asyncio.AbstractEventLoop | None = None

    def ends(self) -> None:
        """Notes who lives on; to be called when the command has ended, and before it is reaped."""
        self.close()
        self._living = self._find()
        self._until = procfs.now()

    def had(self, pid: int) -> bool:
        """Returns whether a child of ours, running or a zombie, is one that may be reaped.

        Raises:
            OSError: there is none of that pid.
        """
        if pid in self._living.values():
            return False
        # What was started in this time can have its group from no other.
        if not self._begun <= procfs.start_time(pid) <= self._until:
            return False
        # A helper that has left the group has entered the container's pid namespace: no child of this
        # program's own is in one, unless by its own doing.
        return os.getpgid(pid) == self._leader != pid or procfs.is_below(pid)

    def watch(self, loop: asyncio.AbstractEventLoop, over: Callable[[], object]) -> None:
        """Waits until nobody is left who could start something.

        Args:
            loop: the event loop.
            over: called once, at once if nobody lives on.
        """
        if not self._living:
            over()
            return
        self._loop = loop
        alive = set(self._living)

        def died(pidfd: int) -> None:
            loop.remove_reader(pidfd)
            alive.discard(pidfd)
            if not alive:
                self._look_again()
                self.watch(loop, over)

        for pidfd in self._living:
            loop.add_reader(pidfd, died, pidfd)

    def close(self) -> None:
        """Lets go of those that live on. Idempotent."""
        if self._loop is not None:
            for pidfd in self._living:
                self._loop.remove_reader(pidfd)
        procfs.close(self._living)
        self._living = {}

    def _look_again(self) -> None:
        """Notes whom the ones that lived on have started, now that all of them are dead."""
        found, now = self._find(), procfs.now()
        if any(map(procfs.is_there, self._living)):
            self._until = now
        else:
            procfs.close(found)
            found = {}
        self.close()
        self._living = found

    def _find(self) -> dict[int, int]:
        living: dict[int, int] = {}
        for pid in procfs.members(self._leader):
            if pid == self._leader or procfs.is_dead(pid) or registry.knows(pid):
                continue
            # Without a file descriptor for it, what it starts is not found.
            with contextlib.suppress(OSError):
                living[os.pidfd_open(pid)] = pid
        return living
