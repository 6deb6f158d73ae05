"""What a client says of what it makes, so that it goes with the program."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class Guard(Protocol):
    """What happens with what a client makes should the program die."""

    def make_folder(self) -> str:
        """Makes a temporary directory, which the caller removes, and returns its path."""

    def creating(
        self, container_id: str, bundle: str, runtime: str
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Is open while a container is created; what it gives is called with the pid of its init."""

    def deleted(self, pid: int) -> None:
        """Is told that a process of the container has been deleted."""

    def kill_at(self, pid: int, end: float) -> AbstractContextManager[None]:
        """While it is open, has a process killed when its time is up, even if this program is stopped.

        Args:
            pid: init, or a process in the container.
            end: when its time is up, in seconds of time.monotonic().
        """


class NoGuard:
    """For containers that are to outlive the program, or that another made."""

    def make_folder(self) -> str:
        return tempfile.mkdtemp(prefix="shimpy-")

    @contextmanager
    def creating(self, container_id: str, bundle: str, runtime: str) -> Iterator[Callable[[int], None]]:
        yield ignore

    def deleted(self, pid: int) -> None:
        """Does nothing."""

    @contextmanager
    def kill_at(self, pid: int, end: float) -> Iterator[None]:
        yield


def ignore(_pid: int) -> None:
    """Takes no note of the pid of an init."""
