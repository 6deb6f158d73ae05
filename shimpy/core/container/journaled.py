"""What is written down of one container, so that another shim can take it up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from shimpy.core.cgroup import inode
from shimpy.core.journal.writer import Journal
from shimpy.core.model import EventKind, Policy
from shimpy.core.reaper import Child, procfs

if TYPE_CHECKING:
    from shimpy.core.cgroup import Cgroup
    from shimpy.core.container.context import Context
    from shimpy.core.container.process import Process

# The operations of a container that are committed by an event of theirs.
_OPERATIONS: Final = {EventKind.START: "start", EventKind.PAUSED: "pause", EventKind.RESUMED: "resume"}

_PROCESS_BEGINS: Final = frozenset({EventKind.CREATE, EventKind.EXEC_ADDED, EventKind.EXEC_STARTED})


class ContainerJournal:
    """Writes down what happens to one container before anybody is told.

    Args:
        journal: of the shim.
        context: the container's.
    """

    def __init__(self, journal: Journal, context: Context) -> None:
        self._journal = journal
        self._context = context
        self._intents: dict[object, int] = {}
        # The cgroups of execs that are being started, each with its inode number.
        self._places: dict[Process, list[Any] | None] = {}

    def intend(self, op: str, process: Process | None = None, **more: Any) -> None:
        """Writes down that the runtime is about to be asked for something.

        Args:
            op: create, start, exec, pause or resume.
            process: of a create or exec, the one that is to be.
            **more: what has to be known to undo it.
        """
        self._intents[process or op] = self._journal.intent(op, self._context.id, **more)

    def intend_create(self, init: Process, leftovers: Mapping[str, Any], began: float) -> None:
        """Writes down that the container is about to be created.

        Args:
            init: its first process.
            leftovers: the cgroups that its create may make.
            began: when it began, in seconds since the epoch.
        """
        made = {"bundle": self._context.bundle.path, "runtime": self._context.runtime.recorded()}
        self.intend("create", init, made=made, leftovers=leftovers, began=began)

    @contextmanager
    def during(self, op: str) -> Iterator[None]:
        """Writes down that the container is about to be changed, and at last how that has ended.

        Args:
            op: start, pause or resume.
        """
        self.intend(op)
        try:
            yield
        finally:
            self.undone(op)

    def intend_exec(self, process: Process) -> None:
        """Writes down that an exec is about to be started."""
        cgroup = process.cgroup
        place = None if cgroup is None else [cgroup.path, inode(cgroup.path)]
        self._places[process] = place
        self.intend("exec", process, cgroup=place)

    def undone(self, op: str, process: Process | None = None) -> None:
        """Writes down that nothing is left of it. Idempotent."""
        if process is not None:
            self._places.pop(process, None)
        intent = self._intents.pop(process or op, None)
        if intent is not None:
            self._journal.closed(intent)

    def record(self, event: Any, process: Process, cgroup: Cgroup, more: Mapping[str, Any]) -> None:
        """Writes down what has happened, and that it may be told.

        Args:
            event: what.
            process: to which process, or with init to the container.
            cgroup: the container's.
            more: what else has to be known.
        """
        fields = dict(more)
        key: object = process
        if event.kind not in _PROCESS_BEGINS:
            key = _OPERATIONS.get(event.kind)
        if (intent := self._intents.pop(key, None)) is not None:
            fields["closes"] = intent
        if event.kind in _PROCESS_BEGINS:
            fields["process"] = recorded_process(process)
            if place := self._places.pop(process, None):
                fields["process"]["cgroup"] = place
            if event.kind is EventKind.CREATE:
                fields["made"] = recorded_container(self._context, cgroup)
            # Before the commit: what is in the store and not in the journal is dropped.
            self._store(process)
        number = self._journal.event(event, **fields)
        if event.kind in _PROCESS_BEGINS:
            process.number = number

    def identify(self, child: Child) -> tuple[int, int]:
        """See `identity`."""
        return identity(child)

    def died(self, process: Process, status: int) -> None:
        """Writes down how a process has ended, before anything is done that could lose that."""
        if process.number:
            self._journal.write({"exit": process.number, "status": status, "time": process.exited_at})
            if (store := self._context.hub.store) is not None and process.identity is not None:
                store.remove(f"pid-{process.pid}-{process.identity[0]}")

    def _store(self, process: Process) -> None:
        store, child = self._context.hub.store, process.child
        if store is not None and child is not None and process.identity is not None:
            key = f"{child.pid}-{process.identity[0]}"
            if child.pidfd >= 0:
                store.put(f"pid-{key}", child.pidfd)
            process.io.store(store, key)

    def resized(self, process: Process, width: int, height: int) -> None:
        """Writes down the window size of a process's terminal."""
        if process.number:
            self._journal.write({"size": process.number, "columns": width, "rows": height})

    def forgot(self, process: Process, *, by_call: bool) -> None:
        """Writes down that an exec is deleted; see `Journal.forgot`."""
        if process.number:
            self._journal.forgot(process.number, process.exit_status or 0, by_call=by_call)


def identity(child: Child) -> tuple[int, int]:
    """Returns what no process has that gets the pid later: its start time, and the inode of its pidfd.

    Raises:
        OSError: it has been reaped.
    """
    return procfs.start_time(child.pid), os.fstat(child.pidfd).st_ino


def recorded_container(context: Context, cgroup: Cgroup) -> dict[str, Any]:
    """Returns what has to be known of a container to go on with it."""
    return {
        "bundle": context.bundle.path,
        "spec": context.bundle.spec,
        "runtime": context.runtime.recorded(),
        "cgroup": cgroup.recorded(),
    }


def recorded_process(process: Process) -> dict[str, Any]:
    """Returns what has to be known of a process to go on with it."""
    stdio = process.stdio
    paths = {"stdin": stdio.stdin, "stdout": stdio.stdout, "stderr": stdio.stderr}
    uris = process.policy.log_uris
    fields: dict[str, Any] = {
        "terminal": stdio.terminal,
        "stdio": {field: [path, *_file_identity(path, uris)] for field, path in paths.items() if path},
    }
    if process.policy != Policy():
        fields["policy"] = process.policy._asdict()
    if process.spec is not None and process.child is None:
        fields["spec"] = process.spec
    if process.identity is not None:
        fields["start"], fields["inode"] = process.identity
    if process.size is not None:
        fields["size"] = process.size
    if process.exit_status is not None:
        fields["exited"] = [process.exit_status, process.exited_at]
    return fields


def _file_identity(path: str, uris: bool) -> tuple[int, int]:
    if uris and path.startswith("fifo:"):
        from shimpy.core.stdio.uri import parse_output

        path = parse_output(path).path
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0, 0
    return status.st_dev, status.st_ino
