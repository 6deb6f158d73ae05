"""What there is of containers, written down for the image that this process becomes (execve(2))."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

from shimpy.core.container.container import ManagedContainer
from shimpy.core.container.journaled import identity, recorded_container, recorded_process
from shimpy.core.container.process import Process
from shimpy.core.container.state import State
from shimpy.core.fd_store import FdStore
from shimpy.core.journal import ContainerRecord, JournalState, ProcessRecord
from shimpy.core.stdio.restored import hand_over_fifos
from shimpy.core.supervisor import Supervisor
from shimpy.errors import FailedPreconditionError


def hand_over(supervisor: Supervisor, store: FdStore, state: JournalState) -> None:
    """Writes down the containers of a supervisor; they are left as they are.

    Args:
        supervisor: whose they are; nothing is under way in them, see `under_way`.
        store: gets every file descriptor that is needed to go on.
        state: gets what is known of them.

    Raises:
        FailedPreconditionError: one is in a state that cannot be kept.
        OSError: the kernel does not tell what has to be known.
    """
    if supervisor.has_hooks:
        raise FailedPreconditionError("there are hooks, and what they hold cannot be kept")
    hand_over_fifos(supervisor.hub, store)
    numbers = itertools.count(1)
    for container in supervisor:
        state.containers[container.id] = _container(container, store, numbers)


def under_way(supervisor: Supervisor) -> set[asyncio.Task[object]]:
    """Returns what is being done to containers, and has to end before they are handed over.

    Args:
        supervisor: whose they are.
    """
    found: set[asyncio.Task[object]] = set()
    for container in supervisor:
        found.update(operation.task for operation in container._operations)
        found.update(container._death.tasks)
        found.update(each.deletion.task for each in container.processes() if each.deletion is not None)
    return found


def _container(container: ManagedContainer, store: FdStore, numbers: Iterator[int]) -> ContainerRecord:
    created, table = container._created, container._table
    if created is None or container.init is None:
        raise FailedPreconditionError(f"container {container.id} is being created")
    if container.init.child is None and container.init.exit_status is None:
        raise FailedPreconditionError(f"container {container.id} is to be restored from a checkpoint")
    init, *execs = [_process(container.id, each, store, next(numbers)) for each in container.processes()]
    return ContainerRecord(
        container.id,
        recorded_container(container._context, created.cgroup),
        init,
        {each.number: each for each in execs},
        started=container.state is not State.CREATED,
        paused=container.state is State.PAUSED,
        oom=None if table._oom is None else {"seen": table._oom.seen, "left": 0},
    )


def _process(container_id: str, process: Process, store: FdStore, number: int) -> ProcessRecord:
    fields = recorded_process(process)
    child = process.child
    if child is not None and child.exit_status is None:
        fields["start"], fields["inode"] = identity(child)
        store.put(f"pid-{child.pid}-{fields['start']}", child.pidfd)
    fields["io"] = process.io.hand_over(store, str(number))
    return ProcessRecord(
        number,
        container_id,
        process.exec_id,
        process.pid,
        fields,
        process.exit_status,
        process.exited_at,
        process.is_exit_published,
        process.size,
    )
