"""`shimpy …` over and over: forked from one process that has imported all of it.

A start of the command line takes a third of a second of CPU time, nearly all of it for imports. A test that
is about the start itself (closed file descriptors, ignored signals, terminals) makes a real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NoReturn

_ROOT = Path(__file__).parent.parent.parent
_MAX_MESSAGE = 1 << 18


def without_advice(stderr: str) -> str:
    """Returns what was said on stderr beside what `shimpy run` says of this machine's runtime."""
    return re.sub(r"^shimpy: warning: .* has published escapes .*\n", "", stderr, flags=re.MULTILINE)


class CommandLine:
    """The process that forks.

    Args:
        control: what it is asked over.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def run(
        self,
        *args: str | Path,
        input: str = "",
        stdin: IO[str] | IO[bytes] | None = None,
        env: Mapping[str, str] = os.environ,
        timeout: float = 50,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command line to its end.

        Args:
            args: what stands after `shimpy`.
            input: what it reads.
            stdin: what it reads instead.
            env: its environment.
            timeout: seconds until the test fails.
        """
        request = json.dumps({"args": [str(arg) for arg in args], "environment": dict(env)}).encode()
        assert len(request) <= _MAX_MESSAGE
        ours, theirs = socket.socketpair()
        with (
            ours,
            tempfile.TemporaryFile("w+") as given,
            tempfile.TemporaryFile("w+") as stdout,
            tempfile.TemporaryFile("w+") as stderr,
        ):
            given.write(input)
            given.seek(0)
            files = [stdin or given, stdout, stderr]
            with theirs:
                descriptors = [*(file.fileno() for file in files), theirs.fileno()]
                socket.send_fds(self._control, [request], descriptors)
            ours.settimeout(timeout)
            status = int(ours.recv(16))
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(args, status, stdout.read(), without_advice(stderr.read()))


@contextlib.contextmanager
def command_line() -> Iterator[CommandLine]:
    """Yields the command line, which ends with the block."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MAX_MESSAGE)
    with control:
        with theirs:
            forking = subprocess.Popen([sys.executable, "-m", __name__], stdin=theirs.fileno(), cwd=_ROOT)
        with forking:
            yield CommandLine(control)
            control.close()


def _fork_for_ever(control: socket.socket) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MAX_MESSAGE, 4)
        if not message:
            return
        *standard, answer = descriptors
        pid = os.fork()
        if pid == 0:
            _be_the_command_line(standard, **json.loads(message))
        _, status = os.waitpid(pid, 0)
        with socket.socket(fileno=answer) as reply, contextlib.suppress(BrokenPipeError):
            reply.send(str(os.waitstatus_to_exitcode(status)).encode())
        for descriptor in standard:
            os.close(descriptor)


def _be_the_command_line(standard: list[int], *, args: list[str], environment: dict[str, str]) -> NoReturn:
    from shimpy import cli

    status = 1
    try:
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
        os.closerange(3, 1024)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["shimpy", *args]
        status = cli.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing may get back into the code of the process that forks
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _main() -> None:
    from shimpy.cli import app  # noqa: F401 - likewise
    from shimpy.services import shim_v1  # noqa: F401 - what `shimpy serve` imports, once for all

    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    with control:
        _fork_for_ever(control)


if __name__ == "__main__":
    _main()
