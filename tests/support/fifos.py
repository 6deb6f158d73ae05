"""The other end of a FIFO: readers and writers that block, as a client's do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

_Result = TypeVar("_Result")


def _in_thread(function: Callable[[], _Result]) -> asyncio.Future[_Result]:
    """Starts *function* at once in a thread that holds up nothing if it never ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def settle(result: _Result | None, error: OSError | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("_Result", result))

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except OSError as error:
            failure = error
        # A test that has ended closed its loop.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return future


class Fifo:
    """A FIFO on disk; `str(fifo)` is its path, as a request takes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def read(self) -> asyncio.Future[bytes]:
        """Opens it, from now on, and reads until EOF; await the result."""
        return _in_thread(self.path.read_bytes)

    def read_some(self, size: int) -> asyncio.Future[bytes]:
        """Opens it, from now on, reads *size* bytes, or less at EOF, and closes it."""

        def read() -> bytes:
            data = b""
            # Without a buffer, which would take more than that from who comes next.
            with self.path.open("rb", buffering=0) as file:
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more
            return data

        return _in_thread(read)

    def write(self, data: bytes) -> asyncio.Future[int]:
        """Opens it, from now on, writes *data* and closes it; await the number of bytes."""
        return _in_thread(lambda: self.path.write_bytes(data))

    def release(self) -> None:
        """Lets go every thread that still waits in it, at the end of a test."""
        # Both ends at once never block; those in open(2) get through, and then see EOF or EPIPE.
        with contextlib.suppress(OSError):
            os.close(os.open(self.path, os.O_RDWR | os.O_NONBLOCK))
            self.path.unlink()
