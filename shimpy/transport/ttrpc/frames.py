"""ttrpc's frames: a header of ten bytes, and a payload (PROTOCOL.md of github.com/containerd/ttrpc)."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

REQUEST: Final = 1
RESPONSE: Final = 2
DATA: Final = 3

# Bytes that the payload of one frame may have.
MAX_PAYLOAD: Final = 4 * 1024 * 1024

# Length of the payload, stream, type, flags. No call here is a stream of messages, so that the flags are 0 in
# what is sent, and say nothing in what is received.
_HEADER: Final = struct.Struct(">IIBB")


class Frame(NamedTuple):
    """A frame that was received.

    Attributes:
        stream: which call it belongs to.
        type: REQUEST, RESPONSE, DATA, or one of a later version of the protocol.
        length: bytes of the payload, as the header has it.
        payload: None if it was longer than MAX_PAYLOAD; it has been read past then.
    """

    stream: int
    type: int
    length: int
    payload: bytes | None


def encode(stream: int, frame_type: int, payload: bytes) -> bytes:
    """Returns the bytes of a frame; its payload must not be longer than MAX_PAYLOAD."""
    return _HEADER.pack(len(payload), stream, frame_type, 0) + payload


class FrameReader:
    """Makes frames of what is received, in pieces of any size."""

    __slots__ = ("_held", "_too_long", "_unread")

    def __init__(self) -> None:
        self._held = bytearray()
        self._too_long: Frame | None = None
        self._unread = 0  # bytes of its payload that are still to come

    def recorded(self) -> dict[str, Any]:
        """Returns what of a frame has been taken in, as JSON has it."""
        too_long = None if self._too_long is None else self._too_long[:3]
        held = base64.b64encode(self._held).decode()
        return {"held": held, "too_long": too_long, "unread": self._unread}

    def go_on(self, known: Mapping[str, Any]) -> None:
        """Goes on where another has left off, before it is fed.

        Args:
            known: as `recorded` returned it.
        """
        self._held[:] = base64.b64decode(known["held"])
        self._too_long = None
        if known["too_long"] is not None:
            stream, frame_type, length = map(int, known["too_long"])
            self._too_long = Frame(stream, frame_type, length, None)
        self._unread = int(known["unread"])

    @property
    def missing(self) -> int:
        """How many bytes to come are certain to belong to the frame that has begun."""
        if self._too_long is not None:
            return self._unread
        if len(self._held) < _HEADER.size:
            return _HEADER.size - len(self._held)
        return _HEADER.size + int.from_bytes(self._held[:4], "big") - len(self._held)

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Takes in what was received and returns the frames that it completes."""
        frames: list[Frame] = []
        if self._too_long is not None:
            passed = min(self._unread, len(data))
            self._unread -= passed
            if self._unread:
                return frames
            frames.append(self._too_long)
            self._too_long = None
            data = data[passed:]
        held = self._held
        held += data
        start = 0
        while len(held) - start >= _HEADER.size:
            length, stream, frame_type, _ = _HEADER.unpack_from(held, start)
            payload = start + _HEADER.size
            end = payload + length
            if length > MAX_PAYLOAD:
                frame = Frame(stream, frame_type, length, None)
                if end > len(held):
                    self._too_long, self._unread = frame, end - len(held)
                    start = len(held)
                    break
            elif end > len(held):
                break
            else:
                frame = Frame(stream, frame_type, length, bytes(memoryview(held)[payload:end]))
            frames.append(frame)
            start = end
        del held[:start]
        return frames
