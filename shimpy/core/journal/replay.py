"""What the lines of a journal come to: the containers and processes that its shim had last known of."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shimpy.core.journal.lines import Record
from shimpy.core.reaper import procfs

# How many events a journal keeps for clients that come back, as many as `core.events` does.
HISTORY: Final = 4096

# How many deleted processes are remembered, for a Delete that was carried out and not answered.
TOMBSTONES: Final = 64

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ProcessRecord:
    """What is known of a process.

    Attributes:
        number: of the event that told of it.
        container_id: the container that it is of.
        exec_id: its name in the container, "" for init.
        pid: its process id, 0 for an exec that is not started.
        process: what else its event brought.
        exit_status: how it ended, None as long as that is not known.
        exited_at: when that was noticed, in nanoseconds since the epoch.
        exit_told: whether its EXIT was published.
        size: columns and rows of its terminal, None if nobody has set them.
    """

    number: int
    container_id: str
    exec_id: str
    pid: int
    process: Mapping[str, Any]
    exit_status: int | None = None
    exited_at: int = 0
    exit_told: bool = False
    size: tuple[int, int] | None = None

    def is_there(self) -> bool:
        """Returns whether the process is there, running or a zombie, and none that has got its pid since."""
        start = self.process.get("start")
        if self.pid <= 0 or start is None:
            return False
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            return (
                os.fstat(pidfd).st_ino == self.process.get("inode") and procfs.start_time(self.pid) == start
            )
        except OSError:
            return False
        finally:
            os.close(pidfd)


@dataclass(slots=True)
class ContainerRecord:
    """What is known of a container.

    Attributes:
        id: its id.
        made: what its `create` brought.
        init: its first process.
        execs: the others by their numbers, in the order in which they were started.
        started: whether its START was published.
        paused: whether it was paused when that was last told.
        oom: what the last OOM brought, None if there was none.
    """

    id: str
    made: Mapping[str, Any]
    init: ProcessRecord
    execs: dict[int, ProcessRecord] = field(default_factory=dict)
    started: bool = False
    paused: bool = False
    oom: Mapping[str, Any] | None = None


@dataclass(slots=True)
class JournalState:
    """What a journal comes to.

    Attributes:
        header: its first line.
        containers: by id.
        intents: those that are open, by number.
        events: the last 4,096, oldest first.
        last_event: the number of the last one, 0 if there was none.
        told: the number of the last event that a subscriber has been sent.
        tokens: by the token of a call, the event that committed it.
        tombstones: the last processes that were deleted.
        last_intent: the highest number of an intent.
    """

    header: Record
    containers: dict[str, ContainerRecord] = field(default_factory=dict)
    intents: dict[int, Record] = field(default_factory=dict)
    events: deque[Record] = field(default_factory=lambda: deque(maxlen=HISTORY))
    last_event: int = 0
    told: int = 0
    tokens: dict[str, Record] = field(default_factory=dict)
    tombstones: deque[ProcessRecord] = field(default_factory=lambda: deque(maxlen=TOMBSTONES))
    last_intent: int = 0

    @property
    def socket(self) -> str:
        """The path of the socket that the shim listens at."""
        return str(self.header.get("socket", ""))

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the machine has not been started again since; nothing of it runs if so."""
        return bool(self.header.get("boot") == boot_id())

    def process(self, number: int) -> ProcessRecord | None:
        """Returns the process of a number, None if it is deleted."""
        for container in self.containers.values():
            if container.init.number == number:
                return container.init
            if number in container.execs:
                return container.execs[number]
        return None


def boot_id() -> str:
    """Returns what distinguishes this boot of the machine from all others (proc_sys_kernel(5), random)."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


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
            _apply(state, record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("a line of the journal of %s makes no sense: %r", state.socket, error)
    return state


def _apply(state: JournalState, record: Record) -> None:
    if "event" in record:
        _apply_event(state, record)
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
        _forget(state, int(record["forgot"]))
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
        container.init.exit_status = int(record["status"])
        state.tombstones.append(container.init)
        del state.containers[container_id]
    state.events.append(record)
    state.last_event = max(state.last_event, number)
    if "closes" in record:
        state.intents.pop(int(record["closes"]), None)
    if "token" in record:
        state.tokens.setdefault(str(record["token"]), record)


def _process(record: Record) -> ProcessRecord:
    size = record["process"].get("size")
    return ProcessRecord(
        int(record["event"]),
        str(record["container"]),
        str(record["exec"]),
        int(record["pid"]),
        record["process"],
        size=None if size is None else (int(size[0]), int(size[1])),
    )


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


def _forget(state: JournalState, number: int) -> None:
    for container in state.containers.values():
        if (process := container.execs.pop(number, None)) is not None:
            state.tombstones.append(process)
