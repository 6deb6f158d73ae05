"""Children that a test forks itself, of every kind, and how their exits are told."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Callable

from tests.support.leaks import zombies

_libc = ctypes.CDLL(None, use_errno=True)


def is_subreaper() -> bool:
    """Returns whether this process is a child subreaper."""
    value = ctypes.c_int()
    assert _libc.prctl(37, ctypes.byref(value), 0, 0, 0) == 0  # PR_GET_CHILD_SUBREAPER
    return bool(value.value)


def fork(child: Callable[[], object]) -> int:
    """Forks; the child does what it is given and never comes back."""
    pid = os.fork()
    if pid == 0:
        # What a library with threads has left cannot be freed without them.
        gc.disable()
        with contextlib.suppress(BaseException):
            child()
        os._exit(99)
    return pid


def exits(status: int) -> Callable[[], None]:
    """Returns what exits with a status."""
    return lambda: os._exit(status)


def sleeps() -> None:
    """Sleeps, with nothing open."""
    os.closerange(0, 1024)
    time.sleep(1000)


def orphan(child: Callable[[], object]) -> int:
    """Has a child fork another and end, and returns the pid of the other, which becomes ours."""
    read, write = os.pipe()

    def parent() -> None:
        os.write(write, str(fork(child)).encode())
        os._exit(0)

    pid = fork(parent)
    os.waitpid(pid, 0)
    os.close(write)
    with open(read, "rb") as told:
        return int(told.read())


def is_zombie(pid: int) -> bool:
    """Returns whether a child of ours has ended and is not reaped."""
    return pid in zombies()


class Exit:
    """What the reaper calls, and how often."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self._told = asyncio.Event()

    def __call__(self, status: int) -> None:
        self.statuses.append(status)
        self._told.set()

    async def status(self) -> int:
        async with asyncio.timeout(20):
            await self._told.wait()
        assert len(self.statuses) == 1
        return self.statuses[0]
