"""The processes of one container, and the order in which what happens to them is published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from shimpy.core.cgroup import Cgroup, OomWatch
from shimpy.core.container.process import Process
from shimpy.core.model import ContainerEvent, EventKind
from shimpy.errors import AlreadyExistsError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from shimpy.core.container.journaled import ContainerJournal
    from shimpy.core.hooks.container_hooks import ContainerHooks


class ProcessTable:
    """Init and the execs of a container, by exec id, and what is published of them.

    CREATE < START < EXIT of init < DELETE; EXEC_ADDED < EXEC_STARTED < EXIT of an exec; an OOM before the
    EXIT that it caused; one EXIT for each process that was started; init's last, which is why `finish` is
    asked for it.

    Args:
        container_id: the container's id.
        publish: called with each event.
        after_exec_exit: called after the EXIT of an exec.
        hooks: are told what has been published; None if there are none.
        journal: is told before anybody else; None if there is none.

    Attributes:
        init: the container's first process, once it is created.
    """

    def __init__(
        self,
        container_id: str,
        publish: Callable[[ContainerEvent], None],
        after_exec_exit: Callable[[], None],
        hooks: ContainerHooks | None = None,
        journal: ContainerJournal | None = None,
    ) -> None:
        self._container_id = container_id
        self._publish = publish
        self._after_exec_exit = after_exec_exit
        self._hooks = hooks
        self._journal = journal
        self._execs: dict[str, Process] = {}
        self._running = 0
        self._cgroup = Cgroup()
        self._oom: OomWatch | None = None
        self.init: Process | None = None

    def __iter__(self) -> Iterator[Process]:
        """Init first, then the execs in the order in which they were started, or added."""
        if self.init is not None:
            yield self.init
        yield from self._execs.values()

    def get(self, exec_id: str) -> Process:
        """Returns a process that is not deleted; "" is init.

        Raises:
            NotFoundError: there is none, or no longer.
        """
        process = self._execs.get(exec_id) if exec_id else self.init
        if process is None:
            name = f"exec {exec_id}" if exec_id else "init"
            raise NotFoundError(f"container {self._container_id} has no {name}, or it has been deleted")
        return process

    def check_free(self, exec_id: str) -> None:
        """Refuses an exec id that is taken.

        Raises:
            AlreadyExistsError: an exec has it.
        """
        if exec_id in self._execs:
            raise AlreadyExistsError(f"exec_id: container {self._container_id} has an exec {exec_id} already")

    def created(self, init: Process, cgroup: Cgroup) -> None:
        """Takes up the created container's init; publishes CREATE, and from now on OOMs."""
        self.init = init
        self._cgroup = cgroup
        self.publish(EventKind.CREATE, init)
        self.use(cgroup)
        init.announce()

    def use(self, cgroup: Cgroup, oom_seen: Mapping[str, int] | None = None) -> None:
        """Takes up the container's cgroup, in place of none.

        Args:
            cgroup: the container's.
            oom_seen: see `Cgroup.watch_oom`.
        """
        self._cgroup = cgroup
        self._oom = cgroup.watch_oom(self._oom_struck, oom_seen)

    def take_up(self, init: Process, execs: Iterable[Process]) -> None:
        """Takes up the processes of an earlier shim, of which everything has been published but exits.

        Args:
            init: the container's first process.
            execs: the others, in the order of their starts.
        """
        self.init = init
        for process in execs:
            self._execs[process.exec_id] = process
            self._running += process.pid > 0 and not process.is_exit_published

    def go_on(self, cgroup: Cgroup, oom_seen: Mapping[str, int], oom_left: int) -> None:
        """Publishes what has happened since the earlier shim.

        Args:
            cgroup: the container's.
            oom_seen: see `use`.
            oom_left: OOM kills that it had seen and not published.
        """
        self.use(cgroup, oom_seen)
        self._oom_struck(oom_left)
        if self._oom is not None:
            self._oom.poll()
        for process in list(self)[::-1]:
            process.announce()

    def started(self, init: Process) -> None:
        """Publishes START; `finish` has not been asked for yet, so that the exit comes after."""
        self.publish(EventKind.START, init)

    def added(self, process: Process) -> None:
        """Takes up an exec that is to be started later; publishes EXEC_ADDED."""
        self._execs[process.exec_id] = process
        self.publish(EventKind.EXEC_ADDED, process)

    def exec_started(self, process: Process) -> None:
        """Takes up an exec that runs; publishes EXEC_STARTED, and its exit if that is there already."""
        self._execs.pop(process.exec_id, None)
        self._execs[process.exec_id] = process
        self._running += 1
        self.publish(EventKind.EXEC_STARTED, process)
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

    def remove(self, process: Process, *, by_call: bool = False) -> None:
        """Forgets an exec, if it is still listed, and releases what it held.

        Args:
            process: the exec.
            by_call: because a client asked for it.
        """
        if self._journal is not None and not process.deleted:
            self._journal.forgot(process, by_call=by_call)
        process.release()
        process.mark_deleted()
        if self._execs.get(process.exec_id) is process:
            del self._execs[process.exec_id]

    def clear(self) -> None:
        """Forgets all of them, with the container."""
        for process in list(self):
            process.release()
            process.mark_deleted()
        self._execs.clear()
        self.init = None

    def close(self) -> None:
        """Stops watching for OOM kills."""
        if self._oom is not None:
            self._oom.close()
            self._oom = None

    def exec_exited(self, process: Process) -> None:
        """Publishes the EXIT of an exec; called by the process itself."""
        self._running -= 1
        self._publish_exit(process)
        process.remove_cgroup()
        self._after_exec_exit()

    def finish(self) -> None:
        """Publishes the EXIT of init, once it is dead and every exec's has been published."""
        init = self.init
        if init is not None and init.exit_ready and not self._running:
            self._publish_exit(init)
            self.close()

    def publish(self, kind: EventKind, process: Process, **more: Any) -> None:
        """Publishes what happened to a process, or with init to its container.

        Args:
            kind: what happened, now or, of an exit, when it was noticed.
            process: to which.
            **more: what else the journal is to know.
        """
        ended = kind in (EventKind.EXIT, EventKind.DELETE)
        event = ContainerEvent(
            self._container_id,
            kind,
            process.exited_at if ended else time.time_ns(),
            process.pid,
            process.exec_id,
            process.final_status if ended else 0,
        )
        if self._journal is not None:
            self._journal.record(event, process, self._cgroup, more)
        self._publish(event)
        if self._hooks is not None:
            self._hooks.tell(event, process.hooked)

    def _publish_exit(self, process: Process) -> None:
        # The kernel counts a kill before it sends the signal, so this one's is counted by now.
        if self._oom is not None:
            self._oom.poll()
        self.publish(EventKind.EXIT, process)
        process.mark_exit_published()

    def _oom_struck(self, count: int) -> None:
        if self.init is not None and self._oom is not None:
            for left in reversed(range(count)):
                # A shim that is started again reports those that are left.
                self.publish(EventKind.OOM, self.init, oom={"seen": self._oom.seen, "left": left})
