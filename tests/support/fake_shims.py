"""Small programs in a shim's place below a real keeper: they do what a test tells them, a line at a time."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from shimpy import linux
from shimpy.daemon.helper import begin
from tests.support.time_scale import scaled

# It evaluates what it is told, with a few names of its own, and answers as JSON.
_PROGRAM = """\
import json, os, signal, socket, sys
names, _, fds = (os.environ.get(f"LISTEN_{key}", "") for key in ("FDNAMES", "PID", "FDS"))
listened = {"pid": os.environ.get("LISTEN_PID"), "fds": fds, "names": names}
said = []

def tell(text, *fds):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(manager, [text.encode()], fds)

def store(name, fd):
    tell(f"FDSTORE=1\\nFDPOLL=0\\nFDNAME={name}", fd)

def barrier():
    reading, writing = os.pipe()
    tell("BARRIER=1", writing)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)

def heed(*names):
    for name in names:
        signal.signal(getattr(signal, name), lambda number, frame: said.append(number))

def fork(work=signal.pause):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid

with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
    control.connect(sys.argv[1])
    while code := control.recv(1 << 16):
        control.send(json.dumps(eval(code)).encode())
os._exit(99)
"""


class FakeShim:
    """One of them, which runs.

    Args:
        control: a connection to it.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self.pid = linux.peer(control).pid

    def do(self, code: str) -> Any:
        """Has it evaluate an expression, and returns the result."""
        self._control.send(code.encode())
        return json.loads(self._control.recv(1 << 16))

    def ready(self) -> None:
        """Has it say that it is ready, and returns when the keeper knows."""
        self.do("tell('READY=1') or barrier()")

    def exit(self, status: int) -> None:
        """Has it exit."""
        self._control.send(f"os._exit({status})".encode())

    def kill(self) -> None:
        """Kills it."""
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the conversation, which ends a fake that still runs."""
        self._control.close()


class Kept:
    """A keeper with fakes below it.

    Args:
        altered: numbers of the keeper's modules, `{"module.NAME": value}`.
        files: how many file descriptors it may have, None for as many as there are.
        manager: the NOTIFY_SOCKET of who supervises it.
        style: the format of its log.
    """

    def __init__(
        self,
        altered: dict[str, Any] | None = None,
        *,
        files: int | None = None,
        manager: str = "",
        style: str = "text",
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="shimpy-test-")
        self.directory = Path(self._directory.name) / "kept"
        self.directory.mkdir(mode=0o700)
        program = self.directory.parent / "fake.py"
        program.write_text(_PROGRAM)
        control = str(self.directory.parent / "control")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(control)
        self._listener.listen()
        self._listener.settimeout(scaled(10))
        self._shims: list[FakeShim] = []
        self._log = self.directory.parent / "log"
        lock = os.open(self.directory / "keeper", os.O_RDWR | os.O_CREAT, 0o600)
        module, *alter = ["shimpy.daemon.keeper.main"]
        if altered:
            module, alter = "tests.support.altered_keeper", [json.dumps(altered)]
        shim = [sys.executable, "-I", "-S", str(program), control]
        command = begin.command(module, *alter, str(self.directory), str(lock), style, *shim)

        def prepare() -> None:
            linux.set_child_subreaper(True)
            if files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": manager},
                pass_fds=[lock],
                preexec_fn=prepare,  # noqa: PLW1509 - what it does takes no lock
            )
        os.close(lock)

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def next(self) -> FakeShim:
        """Waits for the next fake that it starts."""
        connection, _ = self._listener.accept()
        connection.settimeout(scaled(10))
        self._shims.append(FakeShim(connection))
        return self._shims[-1]

    def send(self, number: signal.Signals) -> None:
        """Sends the keeper a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Waits for the keeper's end and returns its exit status."""
        return self.process.wait(scaled(10))

    def close(self) -> None:
        """Ends it all."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for shim in self._shims:
            shim.close()
        self._listener.close()
        self._directory.cleanup()
