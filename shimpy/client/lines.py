"""The output of a command, line by line."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ObjectReceiveStream

from shimpy.client.model import Chunk

if TYPE_CHECKING:
    from shimpy.client.model import StreamName


class LineStream(ObjectReceiveStream[Chunk]):
    """Lines of both outputs, in order for each; a last one that does not end is a line too.

    Args:
        chunks: the pieces of output; the stream is theirs from now on.
        limit: bytes of the longest line; a longer one comes in pieces.
    """

    def __init__(self, chunks: ObjectReceiveStream[Chunk], limit: int) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit must be an int, not {limit!r}")
        if limit <= 0:
            raise ValueError(f"limit must be > 0, not {limit}")
        self._chunks = chunks
        self._limit = limit
        self._lines: deque[Chunk] = deque()
        self._rest: dict[StreamName, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._ended = False

    async def receive(self) -> Chunk:
        """Returns the next line, without its line ending.

        Raises:
            anyio.EndOfStream: the command has ended.
        """
        while not self._lines:
            if self._ended:
                raise anyio.EndOfStream
            try:
                stream, data = await self._chunks.receive()
            except anyio.EndOfStream:
                self._ended = True
                for name, rest in self._rest.items():
                    pieces = (rest[: self._limit], rest[self._limit :])
                    self._lines.extend(Chunk(name, bytes(piece)) for piece in pieces if piece)
            else:
                self._split(stream, data)
        return self._lines.popleft()

    async def aclose(self) -> None:
        """Ends the command."""
        await self._chunks.aclose()

    def _split(self, stream: StreamName, data: bytes) -> None:
        rest = self._rest[stream]
        *ended, last = data.split(b"\n")
        for part in ended:
            self._add(stream, rest, part)
            self._lines.append(Chunk(stream, bytes(rest).removesuffix(b"\r")))
            rest.clear()
        self._add(stream, rest, last)

    def _add(self, stream: StreamName, rest: bytearray, part: bytes) -> None:
        rest += part
        # Of a line ending that is cut in two the first half is no piece.
        while len(rest.removesuffix(b"\r")) > self._limit:
            self._lines.append(Chunk(stream, bytes(rest[: self._limit])))
            del rest[: self._limit]
