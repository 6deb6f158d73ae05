"""The processes of a container by pid, as shim.v1 names them."""

from __future__ import annotations

from collections.abc import Callable

from shimpy.core.container.process import Process

# How many exited execs stay listed until they are deleted; the oldest gives way.
MAX_EXITED = 4096


class PidIndex:
    """Which process a pid stands for.

    The kernel gives out pids again, and shim.v1 has no other name. So a dead exec gives way to one that gets
    its pid, since a client could not distinguish the two.

    Args:
        forget: called with an exec whose record gives way.
    """

    def __init__(self, forget: Callable[[Process], None]) -> None:
        self._forget = forget
        self._processes: dict[int, Process] = {}
        self._exited: dict[Process, None] = {}  # execs, in the order of their exits

    def get(self, pid: int) -> Process | None:
        """Returns the process of a pid, None if there is none or it is deleted."""
        process = self._processes.get(pid)
        return None if process is None or process.deleted else process

    def free(self, pid: int) -> None:
        """Has the process that had a pid before give way."""
        if (process := self._processes.get(pid)) is not None:
            self._give_way(process)

    def add(self, process: Process) -> None:
        """Takes up a process that has just got its pid."""
        if self._processes.get(process.pid) is not process:
            self.free(process.pid)
            self._processes[process.pid] = process

    def exited(self, process: Process) -> None:
        """Notes the exit of an exec; when too many stay undeleted, the oldest is forgotten."""
        if self._processes.get(process.pid) is not process:
            return
        self._exited[process] = None
        if len(self._exited) > MAX_EXITED:
            self._give_way(next(iter(self._exited)))

    def remove(self, process: Process) -> None:
        """Forgets a process that is deleted."""
        self._exited.pop(process, None)
        if self._processes.get(process.pid) is process:
            del self._processes[process.pid]

    def clear(self) -> None:
        """Forgets all of them."""
        self._processes.clear()
        self._exited.clear()

    def _give_way(self, process: Process) -> None:
        self.remove(process)
        if not process.deleted:
            self._forget(process)
