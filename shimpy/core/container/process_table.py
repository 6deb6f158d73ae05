"""The processes of one container, and the order in which what happens to them is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shimpy.core.cgroup import Cgroup, OomWatch
from shimpy.core.container.process import Process
from shimpy.core.container.state import State
from shimpy.core.events import Event, EventType
from shimpy.errors import NotFoundError

MAX_EXITED = 4096
"""How many exited execs stay listed until they are deleted; the oldest gives way."""


class Processes:
    """Init and the execs of a container, by pid, and what is published of them.

    CREATE < START < EXIT of init; EXEC_ADDED < EXIT of an exec; an OOM before the EXIT that it
    caused; one EXIT for each; init's last, which is why `finish` is asked for it.

    Args:
        container_id: the container's id.
        publish: called with each Event.
        exec_exited: called after the EXIT of an exec.
    """

    def __init__(
        self, container_id: str, publish: Callable[[Event], None], exec_exited: Callable[[], None]
    ) -> None:
        self._container_id = container_id
        self._publish = publish
        self._after_exec = exec_exited
        self._execs: dict[int, Process] = {}
        self._running = 0
        self._cgroup = Cgroup()
        self._oom: OomWatch | None = None
        self.init: Process | None = None

    def __iter__(self) -> Iterator[Process]:
        """Init first, then the execs in order of start."""
        if self.init is not None:
            yield self.init
        yield from self._execs.values()

    def states(self, of_container: State) -> list[tuple[int, State]]:
        """Returns the pid and state of each.

        Args:
            of_container: the state of the container, which is that of init.
        """
        running = State.RUNNING if of_container is State.CREATED else of_container
        return [
            (process.pid, of_container)
            if process is self.init
            else (process.pid, running if process.exit_status is None else State.STOPPED)
            for process in self
        ]

    def find(self, pid: int) -> Process:
        """Returns a process that is not deleted.

        Raises:
            NotFoundError: there is none, or no more.
        """
        if self.init is not None and pid == self.init.pid:
            return self.init
        process = self._execs.get(pid)
        if process is None:
            raise NotFoundError(
                f"pid: container {self._container_id} has no process {pid}, or it is deleted already"
            )
        return process

    def created(self, init: Process, cgroup: Cgroup) -> None:
        """Takes up the created container's init; publishes CREATE, and from now on OOMs."""
        self.init = init
        self._cgroup = cgroup
        self._tell(EventType.CREATE, init.pid)
        self._oom = cgroup.watch_oom(self._oom_struck)
        init.announce()

    def started(self, init: Process) -> None:
        """Publishes START; `finish` has not been asked for yet, so that the exit comes after."""
        self._tell(EventType.START, init.pid)

    def added(self, process: Process) -> None:
        """Takes up an exec that runs; publishes EXEC_ADDED.

        A dead process whose pid the kernel has given out again gives way: nobody could tell the
        two apart by pid any more.
        """
        self.remove(self._execs.get(process.pid))
        self._execs[process.pid] = process
        self._running += 1
        self._tell(EventType.EXEC_ADDED, process.pid)
        process.announce()

    async def kill(self) -> None:
        """Kills all of them, with everything that they started, and waits until the cgroup is empty.

        Raises:
            InternalError: the kernel refused.
        """
        for process in self:
            if process.child is not None:
                process.child.kill()
        await self._cgroup.kill()

    def remove(self, process: Process | None) -> None:
        """Forgets a process, if it is still listed, and releases what it held."""
        if process is None:
            return
        process.release()
        if self._execs.get(process.pid) is process:
            del self._execs[process.pid]

    def clear(self) -> None:
        """Forgets all of them, with the container."""
        for process in list(self):
            process.release()
        self._execs.clear()
        self.init = None

    def close(self) -> None:
        """Watches for nothing any more."""
        if self._oom is not None:
            self._oom.close()
            self._oom = None

    def exec_exited(self, process: Process) -> None:
        """Publishes the EXIT of an exec; called by the process itself."""
        self._running -= 1
        self._tell_exit(process)
        process.let_go()
        if len(self._execs) - self._running > MAX_EXITED:
            self.remove(next(one for one in self._execs.values() if one.exit_status is not None))
        self._after_exec()

    def finish(self) -> None:
        """Publishes the EXIT of init, once it is dead and every exec's has been."""
        init = self.init
        if init is not None and init.exit_due and not self._running:
            self._tell_exit(init)
            self.close()

    def _tell_exit(self, process: Process) -> None:
        # The kernel counts a kill before it sends the signal, so this one's is counted by now.
        if self._oom is not None:
            self._oom.poll()
        self._tell(EventType.EXIT, process.pid, process.final_status)
        process.told_exit()

    def _oom_struck(self, count: int) -> None:
        if self.init is not None:
            for _ in range(count):
                self._tell(EventType.OOM, self.init.pid)

    def _tell(self, type: EventType, pid: int, exit_status: int = 0) -> None:
        self._publish(Event(self._container_id, type, pid, exit_status))
