"""The output of a process on its way to who follows it: in order, and never more than is asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from shimpy.client.model import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimpy.client.model import StreamName

# Bytes of each output that are held for its reader; beyond that the process has to wait.
_BUFFER = 1 << 18


class Source(Protocol):
    """Where output comes from."""

    def pause(self, stream: StreamName) -> None:
        """Reads no more of an output for now."""

    def resume(self, stream: StreamName) -> None:
        """Reads it on."""


class OutputQueue:
    """Holds what a process has written and nobody has fetched yet.

    Both outputs can be fetched together, each piece as it came, or each by itself.

    Args:
        limit: bytes that are handed on of each output; the rest is thrown away.

    Attributes:
        source: is told to wait while too much is held.
        truncated: there was more than the limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.source: Source | None = None
        self.truncated = False
        self._limit = limit
        self._pieces: dict[StreamName, deque[tuple[int, bytes]]] = {"stdout": deque(), "stderr": deque()}
        self._held = {"stdout": 0, "stderr": 0}
        self._taken = {"stdout": 0, "stderr": 0}
        self._number = 0
        self._news = asyncio.Event()
        self._ended = False
        self._discarded: set[StreamName] = set()

    def put(self, stream: StreamName, data: bytes) -> None:
        """Takes what the process has written."""
        if stream in self._discarded:
            return
        if self._limit is not None:
            left = self._limit - self._taken[stream]
            if len(data) > left:
                self.truncated = True
                data = data[:left]
        if not data:
            return
        self._taken[stream] += len(data)
        self._held[stream] += len(data)
        self._number += 1
        self._pieces[stream].append((self._number, data))
        self._news.set()
        if self._held[stream] >= _BUFFER and self.source is not None:
            self.source.pause(stream)

    def discard(self, stream: StreamName) -> None:
        """Throws away what is held of an output, and what will come."""
        self._discarded.add(stream)
        self._pieces[stream].clear()
        self._held[stream] = 0
        self._news.set()
        if self.source is not None:
            self.source.resume(stream)

    def end(self) -> None:
        """Says that nothing more will come."""
        self._ended = True
        self._news.set()

    async def get(self) -> Chunk | None:
        """Returns what was written next to either output; None at the end."""
        return await self._wait(self._next)

    async def get_from(self, stream: StreamName, max_bytes: int) -> bytes:
        """Returns what was written next to one output, up to so many bytes; `b""` at the end."""

        def take() -> Chunk | None:
            if stream in self._discarded:
                return Chunk(stream, b"")
            return self._pop(stream, max_bytes) if self._pieces[stream] else None

        chunk = await self._wait(take)
        return b"" if chunk is None else chunk.data

    async def _wait(self, take: Callable[[], Chunk | None]) -> Chunk | None:
        while (chunk := take()) is None and not self._ended:
            self._news.clear()
            await self._news.wait()
        return chunk

    def _next(self) -> Chunk | None:
        first = [(pieces[0][0], stream) for stream, pieces in self._pieces.items() if pieces]
        return self._pop(min(first)[1], None) if first else None

    def _pop(self, stream: StreamName, max_bytes: int | None) -> Chunk:
        number, data = self._pieces[stream].popleft()
        if max_bytes is not None and len(data) > max_bytes:
            self._pieces[stream].appendleft((number, data[max_bytes:]))
            data = data[:max_bytes]
        self._held[stream] -= len(data)
        if self._held[stream] < _BUFFER and self.source is not None:
            self.source.resume(stream)
        return Chunk(stream, data)
