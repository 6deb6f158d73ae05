"""What a shim had last known of its containers and processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shimpy.core.journal.history import EventHistory
from shimpy.core.journal.lines import Record
from shimpy.core.reaper import procfs

# How many deleted processes are remembered, for a Delete that was carried out and not answered.
TOMBSTONES: Final = 64


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
        events: the last 4,096 that subscribers are told of, oldest first, each with its sequence number.
        last_event: the number of the last event of any kind, 0 if there was none.
        last_sequence: the sequence number of the last one that subscribers are told of, 0 if there was none.
        told: the sequence number of the last event that a subscriber has been sent.
        tokens: what calls came to, by their tokens: `pid` or `status`.
        tombstones: the last processes that were deleted.
        last_intent: the highest number of an intent.
    """

    header: Record
    containers: dict[str, ContainerRecord] = field(default_factory=dict)
    intents: dict[int, Record] = field(default_factory=dict)
    events: EventHistory = field(default_factory=EventHistory)
    last_event: int = 0
    last_sequence: int = 0
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
