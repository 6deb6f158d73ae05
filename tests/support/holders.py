"""Who holds the file descriptors of a shim that is killed, as systemd does: a socket, a list and no more."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

# Gives the file descriptors the numbers from 3 on, and becomes the shim.
_BOOTSTRAP = """
import fcntl, os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 1000) for fd in fds]
os.closerange(3, 1000)
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
os.closerange(1000, 5000)
if fds:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Holder:
    """A file descriptor store.

    Args:
        directory: for its socket.

    Attributes:
        fds: what it holds, by name.
        refuses: it takes nothing.
    """

    def __init__(self, directory: Path) -> None:
        place = directory / "systemd"
        place.mkdir()
        self.address = str(place / "notify")
        self.fds: dict[str, int] = {}
        self.refuses = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def command(self, command: list[str]) -> list[str]:
        """Returns what becomes a command that has what is held; `fds` are passed on."""
        self.settle()
        numbers = ",".join(map(str, self.fds.values()))
        return [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, numbers, *command]

    @property
    def environment(self) -> dict[str, str]:
        """Returns the variables that a shim finds it by."""
        return {"NOTIFY_SOCKET": self.address, "LISTEN_FDNAMES": ":".join(self.fds)}

    def settle(self) -> None:
        """Returns when it has taken what it was sent until now."""
        reader, writer = os.pipe()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(self.address)
            socket.send_fds(client, [b"BARRIER=1"], [writer])
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)

    def close(self) -> None:
        """Ends it, and closes what it holds."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"END", self.address)
        self._thread.join()
        self._socket.close()
        for fd in self.fds.values():
            os.close(fd)

    def _run(self) -> None:
        while True:
            message, fds, _, _ = socket.recv_fds(self._socket, 4096, 8, socket.MSG_CMSG_CLOEXEC)
            if message == b"END":
                return
            fields = dict(line.partition("=")[::2] for line in message.decode().split("\n"))
            name = fields.get("FDNAME", "")
            if fields.get("FDSTORE") == "1" and name not in self.fds and not self.refuses:
                assert fields["FDPOLL"] == "0"
                self.fds[name] = fds.pop()
            elif fields.get("FDSTOREREMOVE") == "1" and name in self.fds:
                os.close(self.fds.pop(name))
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
