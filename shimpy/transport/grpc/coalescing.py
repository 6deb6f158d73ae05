"""One write for what is written at one time."""

from __future__ import annotations

import asyncio
from typing import Any

# Bytes: asyncio's own high-water mark (BaseTransport.set_write_buffer_limits).
_MOST = 64 * 1024


class CoalescedWrites:
    """A transport that gathers what is written in one turn of the event loop.

    grpclib writes the headers, the message and the trailers of an answer one by one; sent one by one,
    each wakes the client, and on a busy machine each costs the turn that the client then takes.

    What is gathered is bounded: when it is as much as the transport itself holds before it tells writers to
    wait, it goes out at once, and they are told.

    Args:
        transport: where it goes.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes in the next turn of the event loop."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)
        self._size += len(data)
        if self._size >= _MOST:
            self._flush()

    def close(self) -> None:
        """Closes the transport after what has been written."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Closes the transport at once."""
        self._forget()
        self._transport.abort()

    def _flush(self) -> None:
        if self._gathered and not self._transport.is_closing():
            self._transport.write(b"".join(self._gathered))
        self._forget()

    def _forget(self) -> None:
        self._gathered.clear()
        self._size = 0
