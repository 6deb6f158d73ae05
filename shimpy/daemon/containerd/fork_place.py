"""Where a fork server listens, and for whom: the same is worked out by who begins it and by who asks it."""

from __future__ import annotations

import os
import sys

# Where the servers listen, unless the variable names another directory; `off` is for none.
DIRECTORY = "/run/shimpy-fork"
VARIABLE = "SHIMPY_FORK_SERVER"
OFF = "off"

# The FIFO on which a systemd unit listens, whoever the server that it begins is for.
ACTIVATED = "activated"

# The file descriptors of who waits: the FIFO, by which it shows that it could open it; and where to answer,
# which is its stdout too, but for the moment in which it writes.
SHOWN = 3
ANSWER = 4

# The namespaces that a process is born into, as /proc/PID/ns has them.
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")

# What must be equal for one process to stand in for another (proc_pid_status(5)); the groups in any order.
_CREDENTIALS = (
    b"Uid:", b"Gid:", b"Groups:", b"CapInh:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"CapAmb:", b"NoNewPrivs:",
    b"Seccomp:",
)  # fmt: skip

# What a command is told once something is being done for it; the exit status follows.
BEGUN = b"-"

# Seconds for that; then the command does it itself.
BEGIN_TIMEOUT = 2


def key() -> str:
    """Returns which interpreter this is, and which shimpy: one server is for one of both."""
    shimpy = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return _digest([os.path.abspath(sys.executable), shimpy])


def name() -> str:
    """Returns what the name of the server for processes like this one begins with.

    Raises:
        OSError: /proc is not mounted.
    """
    return f"{key()}.{_digest(surroundings('self'))}"


def surroundings(pid: int | str) -> list[str]:
    """Returns what a process is born into: its namespaces, and its root directory.

    Raises:
        OSError: it has gone, or is another user's.
    """
    place = f"/proc/{pid}/"
    return [*(os.readlink(f"{place}ns/{name}") for name in _NAMESPACES), os.readlink(f"{place}root")]


def credentials(pid: int | str) -> list[bytes]:
    """Returns what a process may do.

    Raises:
        OSError: it has gone.
    """
    with open(f"/proc/{pid}/status", "rb") as file:
        return [line for line in file if line.startswith(_CREDENTIALS)]


def directory() -> str:
    """Returns the directory of the servers' FIFOs; empty, if there are to be none."""
    named = os.environ.get(VARIABLE) or DIRECTORY
    return "" if named == OFF else named


def _digest(texts: list[str]) -> str:
    # Not by hashlib, which loads all of OpenSSL.
    from _blake2 import blake2b

    return str(blake2b(os.fsencode("\n".join(texts)), digest_size=8).hexdigest())
