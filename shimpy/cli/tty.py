"""The terminal, or whatever else the command line was given, at this end."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import stat
import termios
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PIECE = 1 << 15


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Makes a terminal raw, so that every key goes to the process, and puts it back as it was."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        # At once: to wait until all is shown (TCSADRAIN) is to wait for a terminal that may be gone.
        termios.tcsetattr(fd, termios.TCSANOW, before)


@contextmanager
def on_resize(act: Callable[[], None]) -> Iterator[None]:
    """Calls *act* whenever this terminal's size changes."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, act)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


def size(fd: int) -> tuple[int, int]:
    """Returns a terminal's columns and rows; 80 and 24 if it does not know them."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 80, 24
    return columns or 80, rows or 24


async def read(fd: int) -> bytes:
    """Returns what comes next, `b""` at the end.

    The file descriptor is not made non-blocking: others have it as well, and would find it so.

    Raises:
        OSError: it cannot be read.
    """
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        # read(2) would say so too, but the writing end of a pipe is never ready for it.
        raise OSError(errno.EBADF, "it is not open for reading")
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    try:
        loop.add_reader(fd, _wake, ready)
    except PermissionError:  # a regular file, or /dev/null: always ready, and epoll(7) does not do them
        return os.read(fd, _PIECE)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
    try:
        return os.read(fd, _PIECE)
    except OSError:  # a terminal that has been hung up
        return b""


class Output:
    """Writes to one of this process's outputs without blocking the loop while it is not read.

    A pipe or a terminal is opened anew for that, so that only this opening of it is non-blocking.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._own = False
        if os.isatty(fd) or stat.S_ISFIFO(os.fstat(fd).st_mode):
            try:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
                self._fd, self._own = os.open(f"/proc/self/fd/{fd}", flags), True
            except OSError:  # another user's terminal: then it may have to wait
                pass

    async def write(self, data: bytes) -> None:
        """Writes all of it.

        Raises:
            BrokenPipeError: it has no reader any more.
        """
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                await self._writable()

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_writer(self._fd, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_writer(self._fd)

    def close(self) -> None:
        """Lets go of what was opened."""
        if self._own:
            os.close(self._fd)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
