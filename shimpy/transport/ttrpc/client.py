"""The client: publishes events to containerd, and calls a shim."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Final, TypeVar

import betterproto

from shimpy.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ShimError,
    UnavailableError,
    from_code,
)
from shimpy.transport.protobuf import decode, encode
from shimpy.transport.ttrpc import codes
from shimpy.transport.ttrpc.envelope import Request, Response, decode_response, encode_request
from shimpy.transport.ttrpc.frames import MAX_PAYLOAD, REQUEST, RESPONSE, Frame
from shimpy.transport.ttrpc.protocol import FrameProtocol

# The last number that a client's streams can have.
_MAX_STREAM: Final = 2**32 - 1

_Reply = TypeVar("_Reply", bound=betterproto.Message)


class Client(FrameProtocol):
    """A connection to a ttrpc server; made by `connect`.

    Any number of calls may be under way on it. The protocol has no way to call one off: a server that was
    called works on when the caller has given up, until the call's timeout or the end of the connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, asyncio.Future[Response]] = {}
        self._next_stream = 1
        self._closed: ShimError | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()

    @property
    def closed(self) -> bool:
        """True once the connection has ended, at whichever end."""
        return self._closed is not None

    async def call(
        self,
        service: str,
        method: str,
        request: betterproto.Message,
        reply: type[_Reply],
        *,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> _Reply:
        """Makes a call and returns its reply.

        Args:
            service: its full name.
            method: its name in the service.
            request: what to send.
            reply: the class of the reply.
            timeout: seconds; the server is told, too. None waits for ever.
            metadata: keys and values to go along.

        Raises:
            DeadlineExceededError: the timeout passed.
            UnavailableError: the connection is closed, or ended before the reply came.
            ResourceExhaustedError: the request, or the reply, is longer than a frame may be.
            InternalError: the reply could not be decoded.
            ShimError: the error that the server answered with.
        """
        # An int64 has room for 292 years.
        nanoseconds = 0 if timeout is None else max(1, int(min(timeout, 9e9) * 1e9))
        payload = encode_request(Request(service, method, encode(request), nanoseconds, tuple(metadata)))
        if len(payload) > MAX_PAYLOAD:
            raise ResourceExhaustedError(
                f"{service}/{method}: the request has {len(payload)} bytes; {MAX_PAYLOAD} are the most"
            )
        try:
            async with asyncio.timeout(timeout):
                response = await self._exchange(payload)
        except TimeoutError:
            raise DeadlineExceededError(f"{service}/{method}: no reply within {timeout} s") from None
        if response.code != codes.OK:
            raise from_code(codes.name_of(response.code), response.message)
        try:
            return decode(reply, response.payload)
        except InvalidArgumentError as error:
            raise InternalError(f"{service}/{method}: the reply is not understood: {error}") from None

    def close(self) -> None:
        """Closes the connection; calls under way end with UnavailableError. Idempotent."""
        self._fail(UnavailableError("the connection was closed"))
        self.transport.abort()

    async def wait_closed(self) -> None:
        """Waits until the connection has ended."""
        await self._lost.wait()

    async def _exchange(self, payload: bytes) -> Response:
        # A server that does not read is waited for here: what it has not taken does not pile up.
        while not self._writable.is_set():
            await self._writable.wait()
        if self._closed is not None:
            raise self._closed
        stream = self._next_stream
        if stream > _MAX_STREAM:
            raise UnavailableError("the connection has no more numbers for calls; connect again")
        self._next_stream += 2
        response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._pending[stream] = response
        try:
            self.send(stream, REQUEST, payload)
            return await response
        finally:
            del self._pending[stream]

    def frame_received(self, frame: Frame) -> None:
        """Ends the call that a frame belongs to."""
        response = self._pending.get(frame.stream)
        if response is None or response.done():
            return  # of one that has been given up
        if frame.payload is None:
            response.set_exception(ResourceExhaustedError(f"the reply has {frame.length} bytes"))
        elif frame.type != RESPONSE:
            response.set_exception(InternalError(f"a frame of type {frame.type} came instead of a reply"))
        else:
            try:
                response.set_result(decode_response(frame.payload))
            except InvalidArgumentError as error:
                response.set_exception(InternalError(f"the reply is not understood: {error}"))

    def pause_writing(self) -> None:
        """Holds new calls back."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Lets new calls go."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the calls under way."""
        self._fail(UnavailableError(f"the connection ended: {exc}" if exc else "the connection ended"))
        self._lost.set()

    def _fail(self, error: ShimError) -> None:
        if self._closed is None:
            self._closed = error
        for response in self._pending.values():
            if not response.done():
                response.set_exception(type(error)(str(error)))
        self._writable.set()


async def connect(path: str) -> Client:
    """Connects to a unix socket, or fails at once.

    Args:
        path: of the socket.

    Raises:
        UnavailableError: no server listens there, or its backlog is so full that the kernel lets no client
            join them.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Not asyncio's: it takes the kernel's refusal of a full queue (EAGAIN in connect(2)) for success.
        sock.connect(path)
        _, client = await asyncio.get_running_loop().create_unix_connection(Client, sock=sock)
    except OSError as error:
        sock.close()
        raise UnavailableError(f"{path}: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise
    return client
