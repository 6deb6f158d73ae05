"""The container of a shim, and its processes by the pids that shim.v1 names them by."""

from __future__ import annotations

from collections.abc import Iterable

from shimpy.core.container.container import ManagedContainer
from shimpy.core.container.process import Process
from shimpy.core.journal import ProcessRecord
from shimpy.core.model import ContainerEvent, EventKind
from shimpy.core.supervisor import Supervisor
from shimpy.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from shimpy.services.shim_v1.pid_index import PidIndex


class ShimProcesses:
    """Finds the container, and a process of it.

    Args:
        supervisor: has the container.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._pids = PidIndex(self._forget)
        # What was deleted by the shim before this one, perhaps without an answer: statuses by pid.
        self._tombstones: dict[int, int] = {}

    def take_up(self, deleted: Iterable[ProcessRecord]) -> None:
        """Takes up what the shim before this one had.

        Args:
            deleted: the last processes that it has deleted.
        """
        self._tombstones = {each.pid: each.exit_status or 0 for each in deleted}
        container = self.live()
        for process in () if container is None else container.processes():
            if process.pid:
                self._tombstones.pop(process.pid, None)
                self._pids.add(process)
                if process.exec_id and process.is_exit_published:
                    self._pids.exited(process)

    def live(self) -> ManagedContainer | None:
        """Returns the container, None before its create has succeeded and once it is deleted."""
        return next((one for one in self._supervisor if one.init is not None), None)

    def existing(self, call: str) -> ManagedContainer:
        """Returns the container, for a call that needs one.

        Raises:
            FailedPreconditionError: there is none.
        """
        self._supervisor.check_open()
        container = self.live()
        if container is None:
            raise FailedPreconditionError(f"{call}: there is no container; create one first")
        return container

    def find(self, pid: int) -> tuple[ManagedContainer, Process]:
        """Returns the process of a pid, and the container that it is of.

        Raises:
            InvalidArgumentError: the pid is 0.
            NotFoundError: there is none.
        """
        self._supervisor.check_open()
        if pid == 0:
            raise InvalidArgumentError("pid: is 0; give the pid that Create, Exec or State returned")
        container = self.live()
        if container is None:
            raise NotFoundError(f"pid: there is no process {pid}, because there is no container")
        process = self._pids.get(pid)
        if process is None:
            raise NotFoundError(f"pid: container {container.id} has no process {pid}, or it has been deleted")
        return container, process

    def deleted_before(self, pid: int) -> int | None:
        """Returns, once, the status of a process that the shim before this one has deleted."""
        return self._tombstones.pop(pid, None)

    def name(self, pid: int) -> str:
        """Names an exec after its pid, which an earlier one that has exited may have had."""
        self._pids.free(pid)
        return str(pid)

    def remove(self, process: Process) -> None:
        """Forgets a process that is deleted."""
        self._pids.remove(process)

    def observe(self, event: ContainerEvent) -> None:
        """Takes note of what has happened."""
        container = self._supervisor.find(event.container_id)
        if container is not None and event.pid:
            if event.kind in (EventKind.CREATE, EventKind.EXEC_STARTED):
                self._tombstones.pop(event.pid, None)
                self._pids.add(container.get(event.exec_id))
            elif event.kind is EventKind.EXIT and event.exec_id:
                self._pids.exited(container.get(event.exec_id))
            elif event.kind is EventKind.DELETE:
                self._pids.clear()

    def _forget(self, process: Process) -> None:
        # Another API's execs have names of their own and stay until they are deleted.
        if process.exec_id == str(process.pid) and (container := self.live()) is not None:
            container.forget(process)
