"""What the lines of a journal come to: the containers and processes that its shim had last known of."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from shimpy.core.journal.history import from_fields
from shimpy.core.journal.lines import Record
from shimpy.core.journal.state import ContainerRecord, JournalState, ProcessRecord
from shimpy.core.model import ContainerEvent, EventKind

# How many calls are remembered by their tokens: a client repeats one as soon as it has a connection again.
TOKENS: Final = 1024

_log = logging.getLogger(__name__)


def replay(records: Iterable[Record]) -> JournalState | None:
    """Returns what records come to; None if there are none.

    A record that makes no sense is left out, with a warning: its shim may have been another's.

    Args:
        records: as `read_records` returned them.
    """
    records = iter(records)
    header = next(records, None)
    if header is None:
        return None
    state = JournalState(header)
    for record in records:
        try:
            apply(state, record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("a line of the journal of %s makes no sense: %r", state.socket, error)
    return state


def apply(state: JournalState, record: Record) -> None:
    """Has a state become what it is after one more record.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the record makes no sense.
    """
    if "event" in record:
        _apply_event(state, record)
    elif "kept" in record:
        _apply_kept(state, record)
    elif "intent" in record:
        state.intents[int(record["intent"])] = record
        state.last_intent = max(state.last_intent, int(record["intent"]))
    elif "closed" in record:
        state.intents.pop(int(record["closed"]), None)
    elif "exit" in record:
        if (process := state.process(int(record["exit"]))) is not None:
            process.exit_status, process.exited_at = int(record["status"]), int(record["time"])
    elif "size" in record:
        if (process := state.process(int(record["size"]))) is not None:
            process.size = int(record["columns"]), int(record["rows"])
    elif "forgot" in record:
        _forget(state, int(record["forgot"]), int(record["status"]))
        _remember_call(state, record, {"status": int(record["status"])})
    elif "told" in record:
        state.told = max(state.told, int(record["told"]))


def _apply_event(state: JournalState, record: Record) -> None:
    number, kind = int(record["event"]), record["kind"]
    container_id = str(record["container"])
    container = state.containers.get(container_id)
    if kind == "create":
        state.containers[container_id] = ContainerRecord(container_id, record["made"], _process(record))
    elif container is None:
        pass  # the line that told of it was damaged
    elif kind in ("exec-added", "exec-started"):
        _add_exec(container, record)
    elif kind == "start":
        container.started = True
    elif kind in ("paused", "resumed"):
        container.paused = kind == "paused"
    elif kind == "oom":
        container.oom = record.get("oom")
    elif kind == "exit":
        if (process := _named(container, record)) is not None:
            process.exit_told = True
            process.exit_status, process.exited_at = int(record["status"]), int(record["time"])
    elif kind == "delete":
        _bury(state, container.init, int(record["status"]))
        del state.containers[container_id]
    state.last_event = max(state.last_event, number)
    if "sequence" in record:
        _add_event(state, int(record["sequence"]), _event(record))
    if "closes" in record:
        state.intents.pop(int(record["closes"]), None)
    _remember_call(state, record, {"pid": int(record["pid"]), "status": int(record.get("status", 0))})


def _apply_kept(state: JournalState, record: Record) -> None:
    """Takes up what a journal that was written anew begins with; see `snapshot`."""
    kind = record["kept"]
    if kind == "counters":
        state.last_event, state.last_sequence = int(record["events"]), int(record["sequence"])
        state.last_intent, state.told = int(record["intents"]), int(record["told"])
    elif kind == "events":
        for fields in record["list"]:
            _add_event(state, *from_fields(fields))
    elif kind == "tokens":
        state.tokens.update(record["list"])
    elif kind == "container":
        container = ContainerRecord(str(record["container"]), record["made"], _kept_process(record["init"]))
        container.started, container.paused = bool(record["started"]), bool(record["paused"])
        container.oom = record["oom"]
        state.containers[container.id] = container
    elif kind == "exec":
        process = _kept_process(record["exec"])
        state.containers[process.container_id].execs[process.number] = process
    elif kind == "tombstone":
        state.tombstones.append(_kept_process(record["process"]))


def _kept_process(fields: Mapping[str, Any]) -> ProcessRecord:
    process = ProcessRecord(**fields)
    process.size = _size(process.size)
    return process


def _event(record: Record) -> ContainerEvent:
    return ContainerEvent(
        str(record["container"]),
        EventKind(record["kind"]),
        int(record.get("time", 0)),
        int(record["pid"]),
        str(record["exec"]),
        int(record.get("status", 0)),
    )


def _add_event(state: JournalState, sequence: int, event: ContainerEvent) -> None:
    state.events.append(sequence, event)
    state.last_sequence = max(state.last_sequence, sequence)


def _remember_call(state: JournalState, record: Record, result: Record) -> None:
    if "token" in record:
        state.tokens[str(record["token"])] = result
        if len(state.tokens) > TOKENS:
            del state.tokens[next(iter(state.tokens))]


def _size(size: Any) -> tuple[int, int] | None:
    return None if size is None else (int(size[0]), int(size[1]))


def _process(record: Record) -> ProcessRecord:
    fields = record["process"]
    process = ProcessRecord(
        int(record["event"]),
        str(record["container"]),
        str(record["exec"]),
        int(record["pid"]),
        fields,
        size=_size(fields.get("size")),
    )
    if "exited" in fields:
        process.exit_status, process.exited_at = map(int, fields["exited"])
    return process


def _add_exec(container: ContainerRecord, record: Record) -> None:
    """Takes up an exec; one that was added before is the same, with what it has got since."""
    process = _process(record)
    before = _named(container, record)
    if before is not None and not before.pid:
        del container.execs[before.number]
    container.execs[process.number] = process


def _named(container: ContainerRecord, record: Record) -> ProcessRecord | None:
    if not record["exec"]:
        return container.init
    # The last of a name: shim.v1 names execs after their pids, which the kernel gives out again.
    for process in reversed(container.execs.values()):
        if process.exec_id == record["exec"]:
            return process
    return None


def _forget(state: JournalState, number: int, status: int) -> None:
    for container in state.containers.values():
        if (process := container.execs.pop(number, None)) is not None:
            _bury(state, process, status)


def _bury(state: JournalState, process: ProcessRecord, status: int) -> None:
    process.exit_status, process.process = status, {}
    state.tombstones.append(process)
