"""What a command reads and writes, as anyio's streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimpy.client.model import StreamName
    from shimpy.client.output_queue import OutputQueue
    from shimpy.client.pipes import InputWriter


class InputStream(ByteSendStream):
    """What a command reads.

    Args:
        writer: returns what writes it; None where the command was given nothing to read.
    """

    def __init__(self, writer: Callable[[], InputWriter | None]) -> None:
        self._writer = writer
        self._closed = False

    async def send(self, item: bytes) -> None:
        """Writes all of it, as fast as the command reads.

        Args:
            item: bytes.

        Raises:
            anyio.ClosedResourceError: it has been closed here.
            anyio.BrokenResourceError: the command reads no more, or was given nothing to read.
        """
        writer = self._writer()
        if self._closed:
            raise anyio.ClosedResourceError
        if writer is None:
            raise anyio.BrokenResourceError("the process was given nothing to read")
        try:
            await writer.write(item)
        except BrokenPipeError as error:
            raise self._failure() from error

    def _failure(self) -> Exception:
        """Returns what a write that could not go on has met: it may have been closed meanwhile."""
        return anyio.ClosedResourceError() if self._closed else anyio.BrokenResourceError()

    async def aclose(self) -> None:
        """Ends what the command reads. Idempotent."""
        self._closed = True
        writer = self._writer()
        if writer is not None:
            writer.close()


class OutputStream(ByteReceiveStream):
    """One output of a command.

    Closing it throws away what comes, so that the command does not wait for it to be read.

    Args:
        name: which.
        output: where it comes from.
        end: raises what went wrong, once there is nothing more.
    """

    def __init__(self, name: StreamName, output: OutputQueue, end: Callable[[], Awaitable[int]]) -> None:
        self._name = name
        self._output = output
        self._end = end
        self._closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Returns what was written next.

        Args:
            max_bytes: how much at most.

        Raises:
            anyio.EndOfStream: the command has ended.
            anyio.ClosedResourceError: it has been closed here.
        """
        check_max_bytes(max_bytes)
        if self._closed:
            raise anyio.ClosedResourceError
        data = await self._output.get_from(self._name, max_bytes)
        if not data:
            if self._closed:
                raise anyio.ClosedResourceError
            await self._end()
            raise anyio.EndOfStream
        return data

    async def aclose(self) -> None:
        """Reads it no more. Idempotent."""
        self._closed = True
        self._output.discard(self._name)


def check_max_bytes(max_bytes: object) -> None:
    """Refuses what is not a positive number.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not positive.
    """
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
        raise TypeError(f"max_bytes must be an int, not {max_bytes!r}")
    if max_bytes <= 0:
        raise ValueError(f"max_bytes must be > 0, not {max_bytes}")
