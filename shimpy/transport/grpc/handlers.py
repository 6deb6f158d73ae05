"""What stands between a service's methods and any grpclib server: strict requests, and a status for all."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

import h2.exceptions
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from shimpy.errors import InvalidArgumentError, ResourceExhaustedError, ShimError, UnimplementedError
from shimpy.transport.grpc.limits import MAX_MESSAGE, MAX_STATUS_MESSAGE
from shimpy.transport.protobuf import decode

_log = logging.getLogger(__name__)

# The five bytes before each message: whether it is compressed, and its length.
_PREFIX = struct.Struct(">BI")


class Replies(AsyncIterable[Any], Protocol):
    """The replies of a server-streaming call, of which an asynchronous generator is one kind."""

    def aclose(self) -> Awaitable[None]:
        """Ends them, also when none has been asked for."""


_Subscribe = Callable[[Any], Replies]


def wrap(
    mapping: Mapping[str, Handler], *, streams: Mapping[str, _Subscribe] | None = None
) -> dict[str, Handler]:
    """Wraps the handlers of a service, so that on any grpclib server they keep the contract.

    Requests are decoded strictly and refused with INVALID_ARGUMENT; every error ends as a status that says
    something, never as UNKNOWN; a handler that is cancelled from within leaves no client waiting.

    Args:
        mapping: what the generated `__mapping__` returns.
        streams: for the paths of server-streaming methods, functions that take the request, subscribe before
            they return, and return the replies: response headers go out as soon as one has returned, so that
            a client knows from when on it is subscribed.
    """
    streams = streams or {}
    return {
        path: handler._replace(
            func=_answer(
                path, _stream(streams[path]) if path in streams else handler.func, handler.request_type
            )
        )
        for path, handler in mapping.items()
    }


class StrictStream:
    """The stream of a call as generated code sees it, with requests read and decoded strictly."""

    def __init__(self, stream: Stream[Any, Any], request_type: Any) -> None:
        self._stream = stream
        self._request_type = request_type
        self.send_initial_metadata = stream.send_initial_metadata
        self.send_message = stream.send_message

    async def recv_message(self) -> Any:
        """Returns the next request, or None when there are no more."""
        return await _receive(self._stream, self._request_type)


def _answer(
    path: str, func: Callable[[Any], Awaitable[None]], request_type: Any
) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    """Returns the handler with every way out of it turned into a status."""

    async def answer(stream: Stream[Any, Any]) -> None:
        try:
            await func(StrictStream(stream, request_type))
        except ShimError as error:
            raise GRPCError(Status[error.code], sent(error)) from error
        except GRPCError as error:
            status = Status.INTERNAL if error.status is Status.UNKNOWN else error.status
            raise GRPCError(status, sent(error.message or status.name)) from error
        except h2.exceptions.ProtocolError:
            # The client has gone away in the middle of the reply; there is nothing left to answer.
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            _log.exception("%s was cancelled from within", path)
            raise GRPCError(Status.INTERNAL, "the call was broken off within shimpy") from None
        except Exception as error:
            _log.exception("%s failed", path)
            raise GRPCError(Status.INTERNAL, "shimpy failed; its log has the details") from error

    return answer


def _stream(subscribe: _Subscribe) -> Callable[[StrictStream], Awaitable[None]]:
    """Returns a handler that sends the response headers once the client is subscribed."""

    async def serve(request: StrictStream) -> None:
        replies = subscribe(await request.recv_message())
        try:
            metadata = getattr(replies, "metadata", None)
            await request.send_initial_metadata(metadata=metadata)
            async for reply in replies:
                await request.send_message(reply)
        finally:
            await replies.aclose()

    return serve


async def _receive(stream: Stream[Any, Any], request_type: Any) -> Any:
    """Reads and decodes one request; grpclib's own way has neither limits nor statuses."""
    name = request_type.__name__
    prefix = await _read(stream, _PREFIX.size, name)
    if not prefix:
        if stream._cardinality.client_streaming:
            return None
        raise InvalidArgumentError(f"{name}: the call came without a request message")
    compressed, length = _PREFIX.unpack(prefix)
    if compressed == 1:
        raise UnimplementedError("compressed messages are not offered: send with grpc-encoding: identity")
    if compressed:
        raise InvalidArgumentError(f"{name}: {compressed} is not a gRPC message flag")
    if length > MAX_MESSAGE:
        raise ResourceExhaustedError(f"{name}: a message of {length} bytes; at most {MAX_MESSAGE} are taken")
    request = decode(request_type, await _read(stream, length, name) if length else b"")
    (request,) = await stream._dispatch.recv_message(request)
    stream._messages_received += 1
    stream._stream.connection.messages_received += 1
    return request


async def _read(stream: Stream[Any, Any], size: int, name: str) -> bytes:
    """Returns exactly so many bytes, or none at the end of the stream."""
    try:
        data = await stream._stream.recv_data(size)
    except AssertionError:
        # This is how grpclib says that the client ended its stream too early.
        data = None
    if data is None or (not data and size != _PREFIX.size):
        raise InvalidArgumentError(f"{name}: the stream ended within a message")
    return data


def sent(message: object) -> str:
    """Returns a message as it may be sent in a status: encodable, and bounded in length."""
    text = str(message).encode("utf-8", "backslashreplace").decode()
    if len(text) <= MAX_STATUS_MESSAGE // 12:  # no character takes more when it is percent-encoded
        return text
    room = MAX_STATUS_MESSAGE - len("...")
    length = 0
    for at, character in enumerate(text):
        length += len(quote(character, safe=" "))
        if length > room:
            return text[:at] + "..."
    return text
