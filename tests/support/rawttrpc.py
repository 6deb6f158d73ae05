"""A ttrpc peer driven by hand, and a service whose handlers do what a test tells them to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

from shimpy.api.task import StateRequest, StateResponse
from shimpy.transport.methods import METADATA, Method
from shimpy.transport.ttrpc import TtrpcServer
from shimpy.transport.ttrpc.codes import name_of
from shimpy.transport.ttrpc.envelope import Request, decode_response, encode_request

SERVICE = "test.Service"

HEADER = struct.Struct(">IIBB")
REQUEST, RESPONSE, DATA = 1, 2, 3


def frame(stream: int, frame_type: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Returns a frame, with a length that may be wrong."""
    return HEADER.pack(len(payload) if length is None else length, stream, frame_type, 0) + payload


def request(
    stream: int, method: str = "Echo", argument: str = "x", *, timeout: int = 0, service: str = SERVICE
) -> bytes:
    """Returns the frame of a call."""
    payload = bytes(StateRequest(id=argument))
    return frame(stream, REQUEST, encode_request(Request(service, method, payload, timeout)))


class Handlers:
    """What the service does.

    Attributes:
        begun: the arguments of the calls of Hold that have begun.
        cancelled: of those that were cancelled.
        release: lets all of Hold return.
        error: what Fail raises.
        stubborn: whether Hold returns its reply even when it is cancelled.
        rolling_back: what Hold waits for when it is cancelled, before that takes effect.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.release = asyncio.Event()
        self.error: BaseException = ValueError("never shown")
        self.stubborn = False
        self.rolling_back: asyncio.Event | None = None
        methods = {
            "Echo": self.echo,
            "Hold": self.hold,
            "Fail": self.fail,
            "Long": self.long,
            "Metadata": self.metadata,
            "Nothing": self.nothing,
        }
        self.services = {SERVICE: {name: Method(handler, StateRequest) for name, handler in methods.items()}}

    async def echo(self, request: StateRequest) -> StateResponse:
        return StateResponse(id=request.id)

    async def hold(self, request: StateRequest) -> StateResponse:
        self.begun.append(request.id)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request.id)
            if self.rolling_back is not None:
                await self.rolling_back.wait()
            if not self.stubborn:
                raise
        return StateResponse(id=request.id)

    async def fail(self, request: StateRequest) -> StateResponse:
        raise self.error

    async def long(self, request: StateRequest) -> StateResponse:
        return StateResponse(id="x" * int(request.id))

    async def metadata(self, request: StateRequest) -> StateResponse:
        return StateResponse(id=" ".join(f"{key}={value}" for key, value in METADATA.get()))

    async def nothing(self, request: StateRequest) -> StateResponse:
        return None  # type: ignore[return-value]  # a mistake that a handler may make


class Peer:
    """A client's end of a connection, with nothing between it and the bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self) -> tuple[int, int, bytes]:
        """Returns stream, type and payload of the next frame."""
        length, stream, frame_type, _ = HEADER.unpack(await self.reader.readexactly(HEADER.size))
        return stream, frame_type, await self.reader.readexactly(length)

    async def answer(self) -> tuple[int, str, str]:
        """Returns stream, status, and the argument that was echoed or the message of the status."""
        stream, frame_type, payload = await self.frame()
        assert frame_type == RESPONSE
        response = decode_response(payload)
        status = name_of(response.code)
        return (
            stream,
            status,
            StateResponse().parse(response.payload).id if status == "OK" else response.message,
        )

    async def hung_up(self) -> bool:
        """Waits for the other end to close the connection; returns whether nothing came before that."""
        with contextlib.suppress(ConnectionError):
            return not await self.reader.read()
        return True


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Peer]:
    """Connects a peer."""
    peer = Peer(*await asyncio.open_unix_connection(path, limit=1 << 24))
    try:
        yield peer
    finally:
        peer.writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(handlers: Handlers, path: Path) -> AsyncIterator[TtrpcServer]:
    """Serves the handlers on a socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    server = TtrpcServer(handlers.services)
    await server.start(listener)
    try:
        yield server
    finally:
        handlers.release.set()
        await server.drain(1)
