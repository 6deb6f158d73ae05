"""One connection of the server, and the calls that are under way on it."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shimpy.errors import InvalidArgumentError
from shimpy.transport.methods import METADATA, Method, Services
from shimpy.transport.ttrpc import codes
from shimpy.transport.ttrpc.call import TtrpcCall, outcome_of, serve
from shimpy.transport.ttrpc.envelope import (
    Request,
    Response,
    decode_request,
    encode_request,
    encode_response,
)
from shimpy.transport.ttrpc.frames import DATA, MAX_PAYLOAD, REQUEST, RESPONSE, Frame
from shimpy.transport.ttrpc.protocol import FrameProtocol

# Calls that may be under way on one connection: a client waits for every process with a call of its own.
MAX_CALLS: Final = 4_096

# Bytes of the requests that are under way on one connection: four of the largest.
MAX_HELD: Final = 4 * MAX_PAYLOAD

# Bytes of answers that a peer may leave unread before the connection is cut.
MAX_UNREAD: Final = 4 * MAX_PAYLOAD

SHUTTING_DOWN: Final = "the shim is shutting down"

_log = logging.getLogger("shimpy.rpc")


@dataclass(eq=False)
class Shared:
    """What the connections of one server have in common.

    Attributes:
        services: what is served.
        admit: says who the peer is; raises PermissionError to send it away.
        max_connections: how many may be open at once.
        connections: those that are.
        calls: what is under way, of connections that are lost too.
        draining: whether new calls are to be refused.
        paused: whether nothing is to be read.
    """

    services: Services
    admit: Callable[[asyncio.BaseTransport], object]
    max_connections: int
    connections: set[Connection] = field(default_factory=set)
    calls: set[TtrpcCall] = field(default_factory=set)
    draining: bool = False
    paused: bool = False


class Connection(FrameProtocol):
    """The server's end of a connection.

    Args:
        shared: the server's.
        known: what `recorded` returned of the one that had the connection before; None: it is new.
    """

    def __init__(self, shared: Shared, known: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._shared = shared
        self._known = known
        self._is_full = False
        self._calls: dict[int, TtrpcCall] = {}
        self._last_stream = 0
        self._held = 0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        room = len(self._shared.connections) < self._shared.max_connections
        self._shared.connections.add(self)
        try:
            self._shared.admit(transport)
        except OSError as error:
            self._turn_away(str(error))
        else:
            if not room:
                self._turn_away("too many are open")
            elif self._known is not None:
                self._go_on(self._known)
        if self._shared.paused:
            self.transport.pause_reading()

    def _turn_away(self, reason: str) -> None:
        _log.warning("a connection was refused: %s", reason)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Breaks off what the peer has asked for."""
        self._shared.connections.discard(self)
        for call in self._calls.values():
            call.cancel()
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        """Stops to read from a peer that does not read, so that answers to it do not pile up."""
        self._is_full = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Goes on where `pause_writing` has stopped."""
        self._is_full = False
        self.read_on()

    def read_on(self) -> None:
        """Reads again, unless something keeps it from that."""
        if not (self._is_full or self._shared.paused):
            self.transport.resume_reading()

    def recorded(self) -> dict[str, Any]:
        """Returns what has to be known to go on with it, as JSON has it; nothing is left to be sent."""
        now = asyncio.get_running_loop().time()
        calls = []
        for call in self._calls.values():
            if call.request is not None:
                # Of a deadline what is left of it.
                left = 0 if call.expiry is None else max(1, int((call.expiry.when() - now) * 1e9))
                request = encode_request(call.request._replace(timeout=left))
                calls.append([call.stream, base64.b64encode(request).decode()])
        return {"frames": self._reader.recorded(), "last_stream": self._last_stream, "calls": calls}

    def _go_on(self, known: Mapping[str, Any]) -> None:
        """Begins the calls anew that another has left."""
        self._reader.go_on(known["frames"])
        for stream, request in known["calls"]:
            self._last_stream = int(stream) - 1
            self._request(int(stream), base64.b64decode(request))
        self._last_stream = int(known["last_stream"])

    def frame_received(self, frame: Frame) -> None:
        """Begins a call, or says what is wrong with the frame."""
        stream = frame.stream
        if frame.payload is None:
            self._refuse(
                stream,
                "RESOURCE_EXHAUSTED",
                f"a message of {frame.length} bytes; {MAX_PAYLOAD} are the most that one may have",
            )
        elif stream % 2 == 0:
            self._refuse(stream, "INVALID_ARGUMENT", f"stream {stream}: those of clients have odd numbers")
        elif frame.type == DATA:
            self._data(stream)
        elif frame.type == REQUEST:
            self._request(stream, frame.payload)

    def _data(self, stream: int) -> None:
        """Refuses a message on a stream: no method here takes more than its request."""
        if call := self._calls.get(stream):
            call.end("INVALID_ARGUMENT", f"stream {stream}: {call.name} takes one message")
        else:
            self._refuse(stream, "INVALID_ARGUMENT", f"stream {stream}: no call is under way on it")

    def _request(self, stream: int, payload: bytes) -> None:
        if stream <= self._last_stream:
            self._refuse(stream, "INVALID_ARGUMENT", f"stream {stream}: numbers of streams have to rise")
            return
        self._last_stream = stream
        try:
            request = decode_request(payload)
        except InvalidArgumentError as error:
            self._refuse(stream, error.code, str(error))
            return
        methods = self._shared.services.get(request.service)
        method = None if methods is None else methods.get(request.method)
        if self._shared.draining:
            self._refuse(stream, "UNAVAILABLE", SHUTTING_DOWN)
        elif methods is None:
            self._refuse(stream, "UNIMPLEMENTED", f"there is no service {request.service[:256]!r}")
        elif method is None:
            self._refuse(stream, "UNIMPLEMENTED", f"{request.service} has no method {request.method[:256]!r}")
        elif request.timeout < 0:
            self._refuse(stream, "DEADLINE_EXCEEDED", "the deadline had passed before the call was made")
        elif len(self._calls) >= MAX_CALLS:
            self._refuse(stream, "RESOURCE_EXHAUSTED", f"{MAX_CALLS} calls are under way on one connection")
        elif self._held + len(request.payload) > MAX_HELD:
            self._refuse(
                stream,
                "RESOURCE_EXHAUSTED",
                f"more than {MAX_HELD} bytes of requests under way on one connection",
            )
        else:
            self._begin(stream, request, method)

    def _begin(self, stream: int, request: Request, method: Method) -> None:
        call = TtrpcCall(stream, f"{request.service}/{request.method}", len(request.payload))
        call.request = request if method.repeatable else None
        context = contextvars.copy_context()
        context.run(METADATA.set, request.metadata)
        loop = asyncio.get_running_loop()
        call.task = loop.create_task(serve(method, request.payload), context=context)
        if request.timeout:
            call.expiry = loop.call_later(
                request.timeout / 1e9, call.end, "DEADLINE_EXCEEDED", "the deadline passed"
            )
        self._held += call.held
        self._calls[stream] = call
        self._shared.calls.add(call)
        # Not at the end of the task, which never begins if it is cancelled before its first step.
        call.task.add_done_callback(lambda _: self._ended(call))

    def _ended(self, call: TtrpcCall) -> None:
        """Answers a call whose handler has ended."""
        if call.expiry is not None:
            call.expiry.cancel()
        self._held -= call.held
        del self._calls[call.stream]
        self._shared.calls.discard(call)
        response = outcome_of(call)
        if _log.isEnabledFor(logging.DEBUG):
            took = (time.monotonic() - call.started) * 1000
            _log.debug("%s: %s in %.1f ms", call.name, codes.name_of(response.code), took)
        # A task that was cancelled keeps the frame in which it was.
        del call.task
        payload = encode_response(response)
        if len(payload) > MAX_PAYLOAD:
            self._refuse(
                call.stream,
                "RESOURCE_EXHAUSTED",
                f"the answer has {len(payload)} bytes; {MAX_PAYLOAD} are the most that one may have",
            )
        else:
            self._answer(call.stream, payload)

    def _refuse(self, stream: int, code: str, message: str) -> None:
        self._answer(stream, encode_response(Response(code=codes.number_of(code), message=message)))

    def _answer(self, stream: int, payload: bytes) -> None:
        self.send(stream, RESPONSE, payload)
        if self.transport.get_write_buffer_size() > MAX_UNREAD and not self.transport.is_closing():
            _log.warning("a connection is closed: its client leaves more than %d bytes unread", MAX_UNREAD)
            self.transport.abort()
