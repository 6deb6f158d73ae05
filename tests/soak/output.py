"""What an exec of `seq` writes into a FIFO that somebody reads, or nobody."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path

_numbers = itertools.count(1)


class Output:
    """A FIFO for the stdout of `seq 1 count`.

    Args:
        directory: where it is made.
        count: how far is counted.
        terminal: whether it comes from a terminal.
        reads: whether anybody reads it.
    """

    def __init__(self, directory: Path, count: int, *, terminal: bool, reads: bool) -> None:
        self.path = str(directory / f"output{next(_numbers)}")
        os.mkfifo(self.path)
        self._expected = b"".join(b"%d%s" % (i, b"\r\n" if terminal else b"\n") for i in range(1, count + 1))
        self._reads = reads
        self._read = bytearray()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._descriptor = -1
        self.pid = 0
        self._whole = True

    def begin(self, pid: int, *, whole: bool) -> None:
        """Opens it and reads until its end, if it is to be read: once the exec has been made.

        Args:
            pid: of the exec.
            whole: whether all of it must come.
        """
        self.pid = pid
        self._whole = whole
        if self._reads:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
            asyncio.get_running_loop().add_reader(self._descriptor, self._more)
            # Of an end that came before it was opened, after a Delete, nothing wakes the loop.
            self._more()

    def _more(self) -> None:
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        self._read += data
        if not data:
            self._close()
            self._ended.set_result(None)

    async def differs(self, status: int | None) -> str:
        """Returns in words what is wrong with what was read, after the Delete; empty if nothing is.

        Args:
            status: what the exec has exited with.
        """
        if not self._reads:
            return ""
        await asyncio.wait([self._ended], timeout=5)
        if not self._ended.done():
            return f"the output of {self.pid} does not end after its Delete"
        if status == 0 and self._whole and self._read != self._expected:
            return f"{len(self._read)} bytes of the output of {self.pid}, of {len(self._expected)}"
        if not self._expected.startswith(self._read):
            return f"the output of {self.pid} is another"
        return ""

    def close(self) -> None:
        """Removes it."""
        self._close()
        os.unlink(self.path)

    def _close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
