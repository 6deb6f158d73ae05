"""What the client takes and returns: plain records, free of gRPC and of the wire format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, TypedDict

from shimpy.core.model import Rlimit, User

# A path, as the standard library's own functions take it.
StrPath = str | os.PathLike[str]


class EventType(StrEnum):
    """What an `Event` tells."""

    CREATE = "CREATE"
    """The runtime has created the container; its init waits to be started."""
    START = "START"
    """Init has been started."""
    EXEC_ADDED = "EXEC_ADDED"
    """A further process has been started in the container."""
    EXIT = "EXIT"
    """A process has ended."""
    OOM = "OOM"
    """The kernel's OOM killer struck in the container."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a container.

    Attributes:
        id: the container.
        type: what happened.
        pid: the process that it happened to, as the host numbers it; init for an OOM.
        exit_status: of an EXIT the exit code, or 128 + the signal; None for any other type.
    """

    id: str
    type: EventType
    pid: int
    exit_status: int | None = None


class ProcessState(StrEnum):
    """What a process of the container is doing."""

    CREATED = "CREATED"
    """Init waits to be started."""

    RUNNING = "RUNNING"
    """It runs."""

    PAUSED = "PAUSED"
    """It is frozen, with all of its container."""

    STOPPED = "STOPPED"
    """It has exited, and is not deleted yet."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process of the container.

    Attributes:
        pid: as the host numbers it.
        state: what it is doing; it stays listed as STOPPED until it is deleted.
    """

    pid: int
    state: ProcessState


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What a shim says of its container.

    Attributes:
        id: the container; empty when there is none.
        bundle: the directory that it was made from.
        pid: of its init, 0 when there is no container.
        processes: init first, then the others in the order in which they were started.
    """

    id: str
    bundle: str
    pid: int
    processes: tuple[ProcessInfo, ...]


class ExecOptions(TypedDict, total=False):
    """What may be said of a process beyond its arguments; unset or None means as the container's own.

    Attributes:
        env: variables that are added to the container's, or replace those that are there.
        cwd: the directory that it starts in, absolute, inside the container.
        user: who it runs as.
        capabilities: its bounding, effective and permitted set, such as `CAP_KILL`.
        rlimits: its resource limits.
        no_new_privileges: forbid it to gain any; holds too if the bundle says so.
        apparmor_profile: the profile to put it under.
        selinux_label: the label to run it with.
    """

    env: Mapping[str, str] | None
    cwd: StrPath | None
    user: User | None
    capabilities: Sequence[str] | None
    rlimits: Sequence[Rlimit] | None
    no_new_privileges: bool | None
    apparmor_profile: str | None
    selinux_label: str | None


# Which of a command's outputs something was written to.
StreamName = Literal["stdout", "stderr"]


class Chunk(NamedTuple):
    """A piece of output, as it came.

    Attributes:
        stream: where the command wrote it.
        data: what it wrote.
    """

    stream: StreamName
    data: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """How a command went.

    Attributes:
        stdout: what it wrote there; for a command that was killed, what it had written by then.
        stderr: the same for its other output.
        exit_status: its exit code, or 128 + the signal that ended it (137 at the timeout).
        timed_out: it was killed because its time was up.
        truncated: it wrote more than the limit; the rest was read and thrown away.
        oom: meanwhile the kernel's OOM killer struck in the container, which does not say that it was the
            command that it killed.
    """

    stdout: bytes
    stderr: bytes
    exit_status: int
    timed_out: bool = False
    truncated: bool = False
    oom: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """What a container uses, as its cgroups count it; None where nothing counts it, or nothing limits it.

    Attributes:
        cpu_time: seconds of CPU time that its processes have used.
        memory: bytes, without the page cache that nothing has used for a while, as docker counts.
        memory_limit: bytes that it may have.
        pids: processes and threads that there are.
        pids_limit: how many there may be.
        read: bytes that it has read from block devices.
        written: bytes that it has written to them.
    """

    cpu_time: float | None
    memory: int | None
    memory_limit: int | None
    pids: int | None
    pids_limit: int | None
    read: int | None
    written: int | None
