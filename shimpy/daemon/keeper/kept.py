"""What the keeper holds for a shim that dies, as systemd's fd store does (systemd.service(5))."""

from __future__ import annotations

import os

# Bytes that a variable of the environment may have for execve(2) (MAX_ARG_STRLEN), less its name and `=`.
_LONGEST_NAMES = 131_072 - len("LISTEN_FDNAMES=") - 1

# File descriptors that are kept at most, and that the keeper needs for itself beside them.
_MOST = 8192
_OWN = 64


class KeptFds:
    """File descriptors by their names, several of which may be the same.

    Args:
        track: find out which process a pidfd is of, for `holds`.
    """

    def __init__(self, *, track: bool) -> None:
        self._track = track
        self._held: list[tuple[str, int, int]] = []
        self._length = 0
        # Those that are handed on are there twice for a moment, in the process that becomes the shim.
        self._most = min(_MOST, os.sysconf("SC_OPEN_MAX") // 2 - _OWN)

    def add(self, name: str, fd: int) -> bool:
        """Takes a file descriptor; what is kept already by that name is not kept twice.

        Args:
            name: without a colon.
            fd: from now on the store's own.

        Returns:
            Whether there was room; what finds none is closed.
        """
        if self._has(name, fd):
            os.close(fd)
            return True
        if len(self._held) >= self._most or self._length + len(name) + 1 > _LONGEST_NAMES:
            os.close(fd)
            return False
        self._held.append((name, fd, _process(fd) if self._track else 0))
        self._length += len(name) + 1
        return True

    def remove(self, name: str) -> None:
        """Lets go of all that have a name."""
        for held in [held for held in self._held if held[0] == name]:
            self._held.remove(held)
            self._length -= len(name) + 1
            os.close(held[1])

    def holds(self, pid: int) -> bool:
        """Returns whether a pidfd of a process is among them."""
        return any(held[2] == pid for held in self._held)

    def names(self) -> str:
        """Returns the names in the order of `fds`, as LISTEN_FDNAMES has them."""
        return ":".join(name for name, _, _ in self._held)

    def fds(self) -> list[int]:
        """Returns the file descriptors."""
        return [fd for _, fd, _ in self._held]

    def _has(self, name: str, fd: int) -> bool:
        known = [held for kept, held, _ in self._held if kept == name]
        # Not asked for unless the name is there: each is a system call.
        return bool(known) and _identity(fd) in map(_identity, known)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _process(fd: int) -> int:
    """Returns the process that a pidfd is of (pidfd_open(2)), 0 for any other file descriptor."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            for line in file:
                if line.startswith(b"Pid:"):
                    return int(line[4:])
    except OSError:
        pass  # there is no room to look: it is kept all the same
    return 0
