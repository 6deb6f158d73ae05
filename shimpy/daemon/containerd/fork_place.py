"""Where a fork server listens, and for whom: the same is worked out by who asks and by who answers."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Where the servers listen, unless the variable names another directory; `off` is for none.
DIRECTORY = "/run/shimpy-fork"
VARIABLE = "SHIMPY_FORK_SERVER"
OFF = "off"

# The name at which a systemd unit listens, whoever the server that it begins is for.
ACTIVATED = "activated"

# The namespaces that a process is born into, as /proc/PID/ns has them.
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")

# What must be equal for one process to stand in for another (proc_pid_status(5)); the groups in any order.
_CREDENTIALS = (
    b"Uid:", b"Gid:", b"Groups:", b"CapInh:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"CapAmb:", b"NoNewPrivs:",
    b"Seccomp:",
)  # fmt: skip

# What the server says to a request: it can be asked to go on, or why it cannot.
READY = b"ready"

# What it is told then; without that nothing happens.
GO = b"go"

# Seconds for a server to say one of the two; for a shim to be started after that.
ANSWER_TIMEOUT = 2.0
START_TIMEOUT = 30.0

# Bytes that a request may have. The environment is its largest part; a longer one goes without a server.
LONGEST_REQUEST = 1 << 17


def program() -> str:
    """Returns which interpreter this is, and which shimpy: one server is for one of both."""
    shimpy = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return f"{os.path.abspath(sys.executable)} {sys.version} {shimpy}"


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
    """Returns the directory of the servers' sockets; empty, if there are to be none."""
    named = os.environ.get(VARIABLE) or DIRECTORY
    return "" if named == OFF else named


def name() -> str:
    """Returns the name at which the server for processes like this one listens.

    Raises:
        OSError: /proc is not mounted.
    """
    # Not by hashlib, which loads all of OpenSSL.
    from _blake2 import blake2b

    text = "\n".join([program(), *surroundings("self")])
    return str(blake2b(os.fsencode(text), digest_size=16).hexdigest())


def encode(program: str, command_line: Sequence[str], arguments: Sequence[str]) -> bytes:
    """Returns a request: for whom, the command line to be seen by, its arguments, and this environment."""
    texts = [program, str(len(command_line)), *command_line, str(len(arguments)), *arguments]
    environment = [name + b"=" + value for name, value in os.environb.items()]
    return b"\0".join([*map(os.fsencode, texts), *environment])


class ForkRequest:
    """What `encode` encodes.

    Attributes:
        program: whose server is asked.
        command_line: by which the shim is to be seen.
        arguments: of the command.
        environment: of the process that asks.
    """

    def __init__(self, data: bytes) -> None:
        """Decodes it.

        Raises:
            ValueError: it is not one.
        """
        first, *parts = data.split(b"\0")
        self.program = os.fsdecode(first)
        self.command_line, parts = _counted(parts)
        self.arguments, parts = _counted(parts)
        self.environment = dict(part.split(b"=", 1) for part in parts if b"=" in part)


def _counted(parts: list[bytes]) -> tuple[list[str], list[bytes]]:
    """Takes a list of texts off the front."""
    number = int(parts[0]) if parts else -1
    if not 0 <= number < len(parts):
        raise ValueError("a list is longer than the request")
    return [os.fsdecode(part) for part in parts[1 : number + 1]], parts[number + 1 :]
