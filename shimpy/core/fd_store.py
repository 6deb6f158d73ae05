"""What holds file descriptors for a process that may be killed: a keeper's or a service manager's store."""

from __future__ import annotations

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
