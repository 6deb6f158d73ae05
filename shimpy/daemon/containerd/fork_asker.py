"""A command of containerd's that waits for a fork server to do what it was started for.

The command is a shell (`shimpy.daemon.containerd.install`), because that starts ten times as quickly as an
interpreter. A shell can neither connect to a socket nor send file descriptors. So it writes into a FIFO who
it is and which of its children is waiting, and the server takes the rest: from /proc, and by pidfd_getfd(2).
The child that waits has the pipe that the shell reads the answer from.
"""

from __future__ import annotations

import contextlib
import os
import signal

from shimpy import linux
from shimpy.daemon.containerd import fork_place

# What a request consists of: the key of a server, and two process ids.
_WORDS = 3


class Asker:
    """The command.

    Attributes:
        pid: its process id.
        key: of the servers that may do it.
        program: as which it was started.
        arguments: of its command line.
        environment: in what its environment differs from this process's: names and values, None for what it
            does not have. To set all of it would touch a tenth of the memory that a child shares.
        standard: its stdin, stdout and stderr, once they have been taken.
        directory: that it works in, once that has been taken.
        answer: where it waits for the exit status, once that has been taken.
    """

    def __init__(self, request: bytes, fifo: tuple[int, int]) -> None:
        """Looks at who asks.

        Args:
            request: a line.
            fifo: the device and the inode of that from which it came.

        Raises:
            OSError: it is not there any more.
            ValueError: it is not a request, or another process's.
        """
        words = request.split()
        if len(words) != _WORDS:
            raise ValueError(f"{request[:64]!r} is not a request")
        self.key = os.fsdecode(words[0])
        self.pid, waiting = map(int, words[1:])
        self.standard: list[int] = []
        self.directory = self.answer = -1
        # From here on nothing is taken for one of the two that has got its number later.
        self._pidfd = os.pidfd_open(self.pid)
        self._waiting = -1
        try:
            pidfd = os.pidfd_open(waiting)
            try:
                _check(waiting, self.pid, fifo)
            except BaseException:
                os.close(pidfd)
                raise
            self._waiting = pidfd
            self.program, *self.arguments = map(os.fsdecode, _strings(self.pid, "cmdline")[1:])
            self.environment = _differences(_strings(self.pid, "environ"))
        except BaseException:
            self.close()
            raise

    def take(self) -> None:
        """Takes its file descriptors. From here on it waits for the answer, however long that takes.

        Raises:
            OSError: it waits no longer, or the kernel refused.
        """
        self.standard = [linux.take_fd(self._pidfd, fd) for fd in range(3)]
        self.directory = os.open(f"/proc/{self.pid}/cwd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.answer = linux.take_fd(self._waiting, fork_place.ANSWER)

    def close(self) -> None:
        """Ends the waiting, as far as this process is concerned, and lets go of everything. Idempotent."""
        if self._waiting >= 0:
            with contextlib.suppress(ProcessLookupError):
                # The one signal by which a process ends that a shell has nothing to say of.
                signal.pidfd_send_signal(self._waiting, signal.SIGPIPE)
        for fd in (self._waiting, self._pidfd, *self.standard, self.directory, self.answer):
            if fd >= 0:
                os.close(fd)
        self._waiting = self._pidfd = self.directory = self.answer = -1
        self.standard = []


def _check(waiting: int, pid: int, fifo: tuple[int, int]) -> None:
    """Makes sure that a process waits for another, and could open the FIFO.

    Raises:
        OSError: it is not there any more.
        ValueError: it does not, or could not.
    """
    # The second field, in parentheses, may hold anything; wanted is 4 (proc_pid_stat(5)).
    parent = int(linux.read_file(f"/proc/{waiting}/stat", at_once=True).rpartition(b")")[2].split()[1])
    shown = os.stat(f"/proc/{waiting}/fd/{fork_place.SHOWN}")
    if parent != pid or (shown.st_dev, shown.st_ino) != fifo:
        raise ValueError(f"process {waiting} does not ask for process {pid}")


def _differences(entries: list[bytes]) -> list[tuple[bytes, bytes | None]]:
    pairs = (entry.partition(b"=") for entry in entries)
    theirs = {name: value for name, equals, value in pairs if name and equals}
    own = dict(os.environb)
    removed = [(name, None) for name in own if name not in theirs]
    return [*removed, *((name, value) for name, value in theirs.items() if own.get(name) != value)]


def _strings(pid: int, name: str) -> list[bytes]:
    return linux.read_file(f"/proc/{pid}/{name}").rstrip(b"\0").split(b"\0")
