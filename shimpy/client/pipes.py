"""The FIFOs that carry what a command reads and writes, read and written without blocking."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from shimpy.errors import EXHAUSTED, ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

_READ_AT_ONCE = 1 << 16


class Fifos:
    """FIFOs for one process, in a directory that only this user may enter; removed at the end.

    Args:
        make_folder: makes the directory and returns its path.
        stdin: whether the process reads anything.
        stderr: whether it has an output for errors of its own.

    Attributes:
        stdin: path of the FIFO that the process reads; None: it reads nothing.
        stdout: path of the FIFO that it writes.
        stderr: path of the FIFO that it writes errors to; None: it has a terminal.

    Raises:
        ResourceExhaustedError: there is no room for them.
    """

    def __init__(self, make_folder: Callable[[], str], *, stdin: bool, stderr: bool) -> None:
        self._made: list[str] = []
        with _exhaustion():
            self._directory = make_folder()
            try:
                self.stdin = self._make("stdin") if stdin else None
                self.stdout = self._make("stdout")
                self.stderr = self._make("stderr") if stderr else None
            except BaseException:
                self._remove()
                raise

    def _make(self, name: str) -> str:
        path = os.path.join(self._directory, name)
        os.mkfifo(path, 0o600)
        self._made.append(path)
        return path

    def _remove(self) -> None:
        # One by one: shutil.rmtree() opens the directory, for which there may be no file descriptor left.
        for path in self._made:
            with suppress(OSError):
                os.unlink(path)
        with suppress(OSError):
            os.rmdir(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()


class OutputReader:
    """Hands on what a FIFO brings.

    The FIFO is open before anything is written to it, so nothing is missed; until the first writer has
    come the kernel reports no end (fifo(7), poll(2)).

    Raises:
        ResourceExhaustedError: there is no file descriptor left.
    """

    def __init__(self, path: str, take: Callable[[bytes], None]) -> None:
        self._take = take
        with _exhaustion():
            self._fd: int | None = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._loop = asyncio.get_running_loop()
        self._reading = False

    def resume(self) -> None:
        """Reads on."""
        if self._fd is not None and not self._reading:
            self._loop.add_reader(self._fd, self._readable, self._fd)
            self._reading = True

    def pause(self) -> None:
        """Reads no more for now; the writer waits once the FIFO is full."""
        if self._fd is not None and self._reading:
            self._loop.remove_reader(self._fd)
            self._reading = False

    def finish(self) -> None:
        """Reads what is there now, at most what a FIFO holds, and closes it.

        To be called when the process has ended: something else may still write, for ever.
        """
        if self._fd is not None:
            left = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)
            while left > 0 and self._fd is not None:
                left -= self._readable(self._fd) or left
            self.close()

    def close(self) -> None:
        """Closes it; what is unread is lost."""
        self.pause()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _readable(self, fd: int) -> int:
        try:
            data = os.read(fd, _READ_AT_ONCE)
        except BlockingIOError:
            return 0
        if data:
            self._take(data)
        else:
            self.close()
        return len(data)


class InputWriter:
    """Writes to the FIFO that a process reads; opened once the shim has opened the other end.

    Raises:
        ResourceExhaustedError: there is no file descriptor left.
    """

    def __init__(self, path: str) -> None:
        self._fd: int | None = None
        try:
            with _exhaustion():
                self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no reader: the process has ended
                raise
        self._writing = asyncio.Lock()
        self._ready: asyncio.Future[None] | None = None

    async def write(self, data: bytes | memoryview) -> None:
        """Writes all of it, as fast as the process reads.

        Raises:
            BrokenPipeError: the process reads no more, or the input has been closed.
            TypeError: it is not a bytes-like object.
        """
        left = memoryview(data).cast("B")  # by bytes, not by the items of an array
        async with self._writing:
            while left:
                if self._fd is None:
                    raise BrokenPipeError("the process reads no more")
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    await self._writable(self._fd)
                except BrokenPipeError:
                    self.close()
                    raise

    def close(self) -> None:
        """Ends the input; a write that still waits fails."""
        self._wake()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    async def _writable(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        loop.add_writer(fd, self._wake)
        try:
            await self._ready
        finally:
            self._wake()

    def _wake(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None and self._fd is not None:
            asyncio.get_running_loop().remove_writer(self._fd)
            if not ready.done():
                ready.set_result(None)


@contextmanager
def _exhaustion() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise ResourceExhaustedError(f"the command's FIFOs: {error.strerror}") from error
        raise
