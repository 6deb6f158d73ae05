"""What both ends of a connection have in common: frames come in, frames go out."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from shimpy.transport.ttrpc import frames
from shimpy.transport.ttrpc.frames import Frame, FrameReader

# Bytes read from one connection before the others have their turn, unless they are the rest of one frame.
# They may be 400 of the smallest frames, each of which has to be answered: some 3 ms.
_READ_SIZE: Final = 4 * 1024
_BUFFER_SIZE: Final = 16 * 1024


class FrameProtocol(asyncio.BufferedProtocol):
    """One end of a connection; subclasses say what is to be done with a frame."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self._reader = FrameReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Returns where to put the next bytes: the rest of one frame, or few, so that all get a turn."""
        return self._buffer[: max(_READ_SIZE, self._reader.missing)]

    def buffer_updated(self, nbytes: int) -> None:
        """Takes in what has been read; should that fail, asyncio logs it and closes the connection."""
        for frame in self._reader.feed(self._buffer[:nbytes]):
            if self.transport.is_closing():
                return
            self.frame_received(frame)

    def frame_received(self, frame: Frame) -> None:
        """Takes in one frame."""
        raise NotImplementedError

    def send(self, stream: int, frame_type: int, payload: bytes) -> None:
        """Sends a frame, or keeps it until the peer reads; nothing if the connection is closed."""
        if not self.transport.is_closing():
            self.transport.write(frames.encode(stream, frame_type, payload))

    def eof_received(self) -> None:
        """Closes the connection: who sends no more has gone (ttrpc has no other way to say so)."""
        self.transport.abort()
