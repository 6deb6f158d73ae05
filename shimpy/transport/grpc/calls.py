"""The calls of one connection, from request headers to trailers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import h2.exceptions
from grpclib.const import Handler, Status
from grpclib.encoding.base import GRPC_CONTENT_TYPE
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchServerEvents
from grpclib.exceptions import GRPCError
from grpclib.metadata import _UNITS, Deadline, encode_grpc_message
from grpclib.protocol import AbstractHandler
from grpclib.server import Stream

from shimpy.transport.grpc import metadata
from shimpy.transport.grpc.limits import MAX_HEADERS

if TYPE_CHECKING:
    from grpclib.protocol import Stream as HTTPStream

_log = logging.getLogger("shimpy.rpc")

_CONTENT_TYPES = frozenset({GRPC_CONTENT_TYPE, GRPC_CONTENT_TYPE + "+proto"})

# Headers that HTTP/2 counts as longer than their text by this much (RFC 9113, section 6.5.2).
_HEADER_OVERHEAD = 32

_Headers = list[tuple[str, str]]


class _RefusedError(Exception):
    """A request that no handler sees."""

    def __init__(self, status: Status, message: str, http_status: int = 200) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.http_status = http_status


class GrpcCall:
    """One call: a task, and how it ends.

    Attributes:
        task: what serves it.
        streaming: whether it may go on for as long as the server does.
    """

    def __init__(self, calls: Calls, stream: HTTPStream, headers: _Headers) -> None:
        self._calls = calls
        self._http = stream
        self._verdict: tuple[Status, str] | None = None
        self._broken_off = False
        self._handled = False
        self.path = next((value for name, value in headers if name == ":path"), "")
        self._method = calls.find(self.path)
        self.streaming = self._method is not None and self._method.cardinality.server_streaming
        self.task = asyncio.get_running_loop().create_task(self._run(headers))

    def end(self, status: Status, message: str) -> None:
        """Breaks the call off and tells its client why."""
        if not self._broken_off:
            self._verdict = (status, message)
        self.cancel()

    def cancel(self) -> None:
        """Breaks the call off.

        Once: a deadline is often followed by the reset of a client that has the same one, and a method that
        is undoing what it did must not be torn out of that.
        """
        if not self._broken_off or self._handled:
            self._broken_off = True
            self.task.cancel()

    async def _run(self, headers: _Headers) -> None:
        started = time.monotonic()
        status = Status.CANCELLED
        message: str | None
        reply: Stream[Any, Any] | None = None
        try:
            try:
                method, timeout = self._admit(headers)
                metadata.note(headers)
                del headers  # they may be many, and the call may be long
                reply = Stream(
                    self._http,
                    self.path,
                    method.cardinality,
                    method.request_type,
                    method.reply_type,
                    codec=_CODEC,
                    status_details_codec=None,
                    dispatch=self._calls.dispatch,
                    deadline=None if timeout is None else Deadline.from_timeout(timeout),
                )
                status, message = await self._serve(method, reply, timeout)
            except asyncio.CancelledError:
                self._handled = True
                if self._verdict is None:
                    return  # the client has gone away
                status, message = self._verdict
            self._handled = True
            await self._end(reply, status, message)
        except _RefusedError as refused:
            status = refused.status
            await self._refuse(refused)
        except asyncio.CancelledError:
            pass  # it went away while it was being told
        except h2.exceptions.ProtocolError:
            pass  # so did the stream
        except Exception:  # noqa: BLE001 - it goes to the log
            _log.exception("%s could not be answered", self.path)
        finally:
            if _log.isEnabledFor(logging.DEBUG):
                self._log(status, time.monotonic() - started)

    def _log(self, status: Status, seconds: float) -> None:
        took = round(seconds * 1000, 1)
        peer = self._calls.peer
        _log.debug(
            "%s %s in %.1f ms, peer pid %s",
            self.path,
            status.name,
            took,
            peer,
            extra={"method": self.path, "status": status.name, "ms": took, "peer": peer},
        )

    def _admit(self, headers: _Headers) -> tuple[Handler, float | None]:
        """Returns what the request headers ask for: the method, and the seconds that it may take."""
        size = sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in headers)
        if size > MAX_HEADERS:
            raise _RefusedError(
                Status.RESOURCE_EXHAUSTED, f"request headers of {size} bytes; at most {MAX_HEADERS} are taken"
            )
        fields = dict(headers)
        if fields.get(":method") != "POST":
            raise _RefusedError(Status.INVALID_ARGUMENT, "gRPC calls are made with POST", 405)
        content_type = fields.get("content-type", "").partition(";")[0].strip()
        if content_type not in _CONTENT_TYPES:
            raise _RefusedError(
                Status.INVALID_ARGUMENT,
                "content-type must be application/grpc or application/grpc+proto",
                415,
            )
        if fields.get("te") != "trailers":
            raise _RefusedError(Status.INVALID_ARGUMENT, 'the header "te: trailers" is missing')
        if self._calls.is_draining():
            raise _RefusedError(Status.UNAVAILABLE, "the shim is shutting down")
        if self._method is None:
            raise _RefusedError(Status.UNIMPLEMENTED, f"there is no method {self.path[:256]!r}")
        return self._method, _timeout(fields.get("grpc-timeout"))

    async def _serve(
        self, method: Handler, stream: Stream[Any, Any], timeout: float | None
    ) -> tuple[Status, str | None]:
        """Runs the handler and returns the status that it comes to."""
        expiry: asyncio.TimerHandle | None = None
        if timeout is not None:
            expiry = asyncio.get_running_loop().call_later(
                timeout, self.end, Status.DEADLINE_EXCEEDED, "the deadline passed; the call took no effect"
            )
        try:
            await method.func(stream)
        except GRPCError as error:
            return error.status, error.message
        except h2.exceptions.ProtocolError:
            raise
        except Exception:  # noqa: BLE001 - it goes to the log
            _log.exception("%s failed", self.path)
        else:
            if stream._send_message_done or method.cardinality.server_streaming:
                return Status.OK, None
            _log.error("%s sent no reply", self.path)
        finally:
            if expiry is not None:
                expiry.cancel()
        return Status.INTERNAL, "shimpy failed; its log has the details"

    async def _end(self, stream: Stream[Any, Any] | None, status: Status, message: str | None) -> None:
        """Sends the trailers."""
        if stream is None:
            await self._refuse(_RefusedError(status, message or status.name))
            return
        if status is Status.OK:
            self._calls.answered()
        await stream.send_trailing_metadata(status=status, status_message=message)
        self._let_go()

    async def _refuse(self, refused: _RefusedError) -> None:
        """Answers with nothing but a status."""
        await self._http.send_headers(
            [
                (":status", str(refused.http_status)),
                ("content-type", GRPC_CONTENT_TYPE),
                ("grpc-status", str(refused.status.value)),
                ("grpc-message", encode_grpc_message(refused.message)),
            ],
            end_stream=True,
        )
        self._let_go()

    def _let_go(self) -> None:
        """Tells a client that has not ended its side that nothing more is wanted.

        Without it h2 would keep the stream for as long as the connection lives.
        """
        if self._http.closable:
            self._http.reset_nowait()


class Calls(AbstractHandler):
    """The calls of one connection.

    Args:
        find: returns the method of a path, if there is one.
        every_call: of the whole server, to which these are added while they are under way.
        peer: who calls, for the log.
        is_draining: whether new calls are to be refused.
        answered: called for every call that ends with OK.
    """

    def __init__(
        self,
        find: Callable[[str], Handler | None],
        every_call: set[GrpcCall],
        *,
        peer: object,
        is_draining: Callable[[], bool],
        answered: Callable[[], None],
    ) -> None:
        self.find = find
        self._every_call = every_call
        self.peer = peer
        self.is_draining = is_draining
        self.answered = answered
        self.dispatch = _DispatchServerEvents()
        self.under_way: dict[HTTPStream, GrpcCall] = {}

    def accept(self, stream: HTTPStream, headers: _Headers, release_stream: Callable[[], None]) -> None:
        """Starts to serve a call."""
        call = self.under_way[stream] = GrpcCall(self, stream, headers)
        self._every_call.add(call)

        def ended(_: asyncio.Task[None]) -> None:
            # Not at the end of the task, which never begins if it is cancelled before its first step.
            del self.under_way[stream]
            self._every_call.remove(call)
            # A task that was cancelled keeps the frame in which it was, which keeps the call: without this
            # 5,000 resets are 20 MB for the garbage collector to find.
            del call.task
            # The connection may be closed to h2 already.
            with contextlib.suppress(h2.exceptions.ProtocolError):
                release_stream()

        call.task.add_done_callback(ended)

    def cancel(self, stream: HTTPStream) -> None:
        """Breaks off a call whose client has reset it."""
        if call := self.under_way.get(stream):
            call.cancel()

    def close(self) -> None:
        """Breaks off every call: the connection is lost."""
        for call in self.under_way.values():
            call.cancel()


def _timeout(value: str | None) -> float | None:
    """Returns the seconds that a grpc-timeout header leaves, None without one."""
    if value is None:
        return None
    digits, unit = value[:-1], value[-1:]
    # At most eight digits, says the protocol.
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 8 and unit in _UNITS):
        raise _RefusedError(
            Status.INVALID_ARGUMENT, "grpc-timeout is up to eight digits and one of H M S m u n"
        )
    seconds = int(digits) * _UNITS[unit]
    if not seconds:
        raise _RefusedError(Status.DEADLINE_EXCEEDED, "the deadline had passed before the call was made")
    return seconds


_CODEC = ProtoCodec()
