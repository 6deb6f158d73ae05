"""Hears of changes of a kernfs file without a thread and without reading it again and again."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable

from shimpy.core.cgroup.hierarchies import StrPath


class FileWatch:
    """Calls back in the event loop each time that the kernel says that a file has changed.

    The files of cgroup version 2 that can change by themselves (cgroup.events, memory.events)
    report it as EPOLLPRI (Documentation/admin-guide/cgroup-v2.rst). They always poll as readable
    too, which asyncio would wait for: so an epoll of our own that waits for EPOLLPRI alone stands
    between the file and the loop. inotify would do as well, but a user has only 128 of those.

    Where the file cannot be watched (no kernfs) there are no callbacks; `read` works all the same.

    Args:
        path: the file.
        changed: called without arguments; the file may have changed once or many times.

    Raises:
        FileNotFoundError: the file is not there.
    """

    def __init__(self, path: StrPath, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        try:
            self._fd: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._epoll.close()
            raise
        self.read()  # the kernel reports changes since the last read
        try:
            # Edge-triggered: a removed cgroup reports an error for ever.
            self._epoll.register(self._fd, select.EPOLLPRI | select.EPOLLET)
        except PermissionError:
            return
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    def read(self) -> str:
        """Returns what the file holds now; nothing once its cgroup has been removed."""
        if self._fd is None:
            return ""
        try:
            return os.pread(self._fd, 4096, 0).decode()
        except OSError:
            return ""

    def close(self) -> None:
        """Ends the watch. Idempotent."""
        if self._fd is None:
            return
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        os.close(self._fd)
        self._fd = None

    def _ready(self) -> None:
        self._epoll.poll(0)
        self._changed()


def flat(text: str) -> dict[str, int]:
    """Returns the "NAME NUMBER" lines of a cgroup's file; lines that are otherwise are left out."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
