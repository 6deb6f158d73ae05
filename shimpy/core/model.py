"""The records that the core takes and tells: processes, their stdio, what happens to them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple


class User(NamedTuple):
    """Who a process runs as, inside the container.

    Attributes:
        uid: user id.
        gid: group id.
        additional_gids: further groups.
    """

    uid: int = 0
    gid: int = 0
    additional_gids: Sequence[int] = ()


class Rlimit(NamedTuple):
    """One resource limit, see `setrlimit(2)`.

    Attributes:
        type: its name, such as `RLIMIT_NOFILE`.
        soft: the limit that is enforced.
        hard: how far the process may raise it.
    """

    type: str
    soft: int
    hard: int


class StdioPaths(NamedTuple):
    """What a process reads and writes, as its client named it.

    Attributes:
        stdin: an existing FIFO, regular file or character device; "" is /dev/null.
        stdout: the same for its output; a regular file is appended to.
        stderr: the same for its other output; not used with a terminal.
        terminal: the process gets a terminal, which is relayed between stdin and stdout.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class Policy(NamedTuple):
    """What the API that creates a process fixes of its life. The defaults are shim.v1's.

    Attributes:
        exec_cgroups: an exec gets a cgroup of its own, so that its Delete ends what it has started.
            Otherwise what an exited exec has started lives on in the container.
        relay_output: the output of an exec to a FIFO goes through a pipe of the shim's, so that its readers
            see EOF at Delete although other processes still hold the pipe, which then get SIGPIPE; so does
            all output to a regular file, which no process can truncate then; that of a terminal ends with
            its process.
        hold_stdin: a FIFO as stdin stays open when its writers leave, until `ProcessIO.close_stdin` is
            called; that of a terminal always does.
        drain_timeout: seconds that Delete waits for output to reach its readers; one that does not read must
            not hold it up.
        log_uris: stdout may be a URI, as `stdio.uri` has it, and then says where both outputs go.
        namespace: containerd's, for the environment of a log program.
        owner: the user and group that the pipes and FIFOs of a process are made to belong to; None: whom
            the bundle maps its user to.
    """

    exec_cgroups: bool = True
    relay_output: bool = False
    hold_stdin: bool = False
    drain_timeout: float = 2.0
    log_uris: bool = False
    namespace: str = ""
    owner: tuple[int, int] | None = None


class EventKind(enum.Enum):
    """What can happen to a container or to a process of it."""

    CREATE = "create"
    START = "start"
    EXEC_ADDED = "exec-added"
    """An exec is registered; it has no pid yet. Not published of an exec that is added and started in one."""
    EXEC_STARTED = "exec-started"
    PAUSED = "paused"
    RESUMED = "resumed"
    OOM = "oom"
    EXIT = "exit"
    DELETE = "delete"


class ContainerEvent(NamedTuple):
    """Something that happened.

    Attributes:
        container_id: the container's id.
        kind: what happened.
        time: when, in nanoseconds since the epoch; of an exit when it was noticed.
        pid: the process that it happened to, in the pid namespace of the shim; init's for what happens to the
            container, 0 for an exec that is not started.
        exec_id: the exec that it happened to, "" for init.
        exit_status: of EXIT and DELETE the exit code, or 128 + the number of the signal.
    """

    container_id: str
    kind: EventKind
    time: int
    pid: int = 0
    exec_id: str = ""
    exit_status: int = 0
