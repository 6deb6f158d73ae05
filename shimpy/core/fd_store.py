"""What holds file descriptors for a process that may be killed: a keeper's or a service manager's store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol


class FdStore(Protocol):
    """Holds copies of file descriptors until the process that is started next asks for them.

    No method waits, nor raises: what cannot be stored is not protected, and that is all.
    """

    def put(self, name: str, fd: int) -> None:
        """Stores a copy of a file descriptor.

        Args:
            name: no other's; without ":" and at most 255 characters.
            fd: the file descriptor, which stays the caller's.
        """

    def remove(self, name: str) -> None:
        """Has a copy closed; nothing happens if there is none of that name."""


class FdTable(FdStore):
    """Names the file descriptors that this process itself keeps over an execve(2): they stay as they are.

    Attributes:
        fds: by name.
    """

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}

    def put(self, name: str, fd: int) -> None:
        """See `FdStore.put`; nothing happens without one."""
        if fd >= 0:
            self.fds.setdefault(name, fd)

    def remove(self, name: str) -> None:
        """See `FdStore.remove`."""
        self.fds.pop(name, None)


def stored_name(device: int, inode: int) -> str:
    """Returns the name in the store of a FIFO's read end."""
    return f"fifo-{device}-{inode}"


def stored(store: FdStore, fds: Mapping[str, int]) -> Callable[[], None]:
    """Stores file descriptors, and returns what removes them from the store.

    Args:
        store: holds them.
        fds: by name; -1 is left out.
    """
    for name, fd in fds.items():
        if fd >= 0:
            store.put(name, fd)

    def remove() -> None:
        for name in fds:
            store.remove(name)

    return remove


def nothing() -> None:
    """Called in place of what removes, if nothing is stored."""
