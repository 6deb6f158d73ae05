"""One HTTP/2 connection: h2 and grpclib's protocol with bounds on what a peer can make them do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import cast

import h2.events
import h2.exceptions
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.protocol import Connection, EventsProcessor, H2Protocol
from h2.connection import ConnectionState
from h2.errors import ErrorCodes

from shimpy.transport.grpc.calls import Calls
from shimpy.transport.grpc.coalescing import CoalescedWrites
from shimpy.transport.grpc.http2 import HTTP2
from shimpy.transport.grpc.limits import (
    CLOSING_TIMEOUT,
    MAX_FRAME,
    MAX_HELD,
    MAX_STREAMS,
    PREFACE_TIMEOUT,
    READ_SIZE,
    TokenBucket,
)

_log = logging.getLogger(__name__)

# grpclib's keepalive is for networks: here the kernel says when a peer has gone.
_CONFIG = Configuration(_keepalive_time=None)

_COSTS: dict[type[h2.events.Event], float] = {
    h2.events.PingReceived: TokenBucket.FRAME,
    h2.events.PingAckReceived: TokenBucket.FRAME,
    h2.events.PriorityUpdated: TokenBucket.FRAME,
    h2.events.RemoteSettingsChanged: TokenBucket.SETTINGS,
    h2.events.SettingsAcknowledged: TokenBucket.FRAME,
    h2.events.StreamReset: TokenBucket.RESET,
    h2.events.UnknownFrameReceived: TokenBucket.FRAME,
    h2.events.WindowUpdated: TokenBucket.FRAME,
}

# Bytes: a client that sends its messages in smaller pieces than this is charged for each.
_SMALL_DATA = 64


class _Connection(Connection):
    """grpclib's bookkeeping of a connection."""

    def __init__(self, connection: HTTP2, transport: asyncio.Transport, bucket: TokenBucket) -> None:
        super().__init__(connection, transport, config=_CONFIG)
        self.bucket = bucket

    def data_send_process(self) -> None:
        """Credits the peer for data sent to it, which it has to acknowledge with frames of its own."""
        super().data_send_process()
        self.bucket.refill(TokenBucket.SENT)


class _Processor(EventsProcessor):
    """What happens on a connection, with the limits that grpclib does not have."""

    def __init__(self, calls: Calls, connection: _Connection) -> None:
        super().__init__(calls, connection)
        self.calls = calls
        self.processors[h2.events.UnknownFrameReceived] = lambda _: None
        self._h2 = connection._connection
        self._bucket = connection.bucket

    def process_request_received(self, event: h2.events.RequestReceived) -> None:
        """Starts a call, if there is room for one more."""
        if len(self.streams) < MAX_STREAMS:
            super().process_request_received(event)
        else:
            self._h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            self._bucket.take(TokenBucket.RESET)

    def process_data_received(self, event: h2.events.DataReceived) -> None:
        """Takes in a piece of a request, if there is room for it."""
        # grpclib takes an empty frame in the middle of a message for its end.
        if event.flow_controlled_length:
            super().process_data_received(event)
        stream = self.streams.get(event.stream_id)
        if stream is None or stream.data_received <= READ_SIZE:
            return
        if sum(each.data_received for each in self.streams.values()) > MAX_HELD:
            self.calls.under_way[stream].end(
                Status.RESOURCE_EXHAUSTED,
                f"more than {MAX_HELD} bytes of requests under way on one connection",
            )


class Protocol(H2Protocol, asyncio.BufferedProtocol):
    """One connection, from its first byte to its last.

    Args:
        calls: makes what serves the calls of the connection, of who calls and of what is to be called for
            every answer.
        admit: says who the peer is, for the log; raises PermissionError to send it away.
        opened: whether there is room for one more connection; called first.
        closed: called last.
    """

    processor: _Processor
    connection: _Connection

    def __init__(
        self,
        calls: Callable[[object, Callable[[], None]], Calls],
        admit: Callable[[asyncio.BaseTransport], object],
        opened: Callable[[Protocol], bool],
        closed: Callable[[Protocol], None],
    ) -> None:
        self._make_calls = calls
        self._admit = admit
        self._opened = opened
        self._closed = closed
        self._bucket = TokenBucket()
        self._buffer = memoryview(bytearray(MAX_FRAME))
        self._next_read = READ_SIZE
        self._preface_timer: asyncio.TimerHandle | None = None
        self._ponged = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepts the peer, or closes the connection if it may not connect."""
        self._transport = cast(asyncio.Transport, CoalescedWrites(cast(asyncio.Transport, transport)))
        self._h2 = HTTP2()
        self.connection = _Connection(self._h2, self._transport, self._bucket)
        try:
            peer = self._admit(transport)
        except OSError as error:
            _log.warning("connection refused: %s", error)
            self._transport.abort()
            peer = None
        self.processor = _Processor(
            self._make_calls(peer, lambda: self._bucket.refill(TokenBucket.ANSWERED)), self.connection
        )
        if self._transport.is_closing():
            return
        if not self._opened(self):
            _log.warning("connection refused: too many are open")
            self._close(ErrorCodes.ENHANCE_YOUR_CALM)
        else:
            self.connection.flush()
            self._preface_timer = asyncio.get_running_loop().call_later(
                PREFACE_TIMEOUT, self._preface_timed_out
            )

    def get_buffer(self, sizehint: int) -> memoryview:
        """Returns where to put the next bytes: the rest of one frame, or few, so that all get a turn."""
        return self._buffer[: self._next_read]

    def buffer_updated(self, nbytes: int) -> None:
        """Takes in what has been read."""
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Takes in what has been read; whatever it is, it harms no other connection."""
        if self._transport.is_closing():
            return
        try:
            events = self._h2.receive_data(data)
            self._next_read = max(READ_SIZE, self._h2.missing())
        except h2.exceptions.ProtocolError as error:
            _log.info("closing connection: %s", error)
            self._close(None)  # h2 has made the GOAWAY
            return
        except Exception:  # noqa: BLE001 - it goes to the log
            # h2 has been seen to fail in other ways on what is not HTTP/2.
            _log.exception("closing connection")
            self._transport.abort()
            return
        self.connection.flush()
        try:
            for event in events:
                if not self._afford(event):
                    _log.warning("closing connection: flooded with %s", type(event).__name__)
                    self._close(ErrorCodes.ENHANCE_YOUR_CALM)
                    return
            for event in self._merged(events):
                self.processor.process(event)
        except Exception:  # noqa: BLE001 - it goes to the log
            _log.exception("closing connection")
            self._transport.abort()
            return
        if not self._transport.is_closing():
            self.connection.flush()

    def _afford(self, event: h2.events.Event) -> bool:
        """Charges an event to the peer's token bucket; returns False once it is empty."""
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._stop_preface_timer()
        elif isinstance(event, h2.events.PingAckReceived):
            self._ponged.set()
        elif isinstance(event, h2.events.DataReceived):
            return len(event.data or b"") >= _SMALL_DATA or self._bucket.take(TokenBucket.FRAME)
        cost = _COSTS.get(type(event))
        return cost is None or self._bucket.take(cost)

    @staticmethod
    def _merged(events: list[h2.events.Event]) -> list[h2.events.Event]:
        """Returns the events with one left of those that make grpclib visit every stream."""
        result = []
        windows: h2.events.Event | None = None
        for event in events:
            if isinstance(event, h2.events.RemoteSettingsChanged) or (
                isinstance(event, h2.events.WindowUpdated) and not event.stream_id
            ):
                windows = h2.events.WindowUpdated(stream_id=0, delta=0)
            else:
                result.append(event)
        return result if windows is None else [*result, windows]

    def pause_writing(self) -> None:
        """Stops to read from a peer that does not read, so that answers to it do not pile up."""
        super().pause_writing()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Goes on where `pause_writing` has stopped."""
        super().resume_writing()
        if not self._transport.is_closing():
            self.connection.flush()
            self._transport.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Breaks off what the peer has asked for."""
        self._stop_preface_timer()
        super().connection_lost(exc)
        self.lost.set()
        self._ponged.set()
        self._closed(self)

    def _stop_preface_timer(self) -> None:
        if self._preface_timer is not None:
            self._preface_timer.cancel()
            self._preface_timer = None

    def _preface_timed_out(self) -> None:
        _log.info("closing connection: no HTTP/2 preface within %g s", PREFACE_TIMEOUT)
        self._transport.abort()

    def _close(self, error: ErrorCodes | None) -> None:
        """Sends GOAWAY and what is queued, and cuts the connection after CLOSING_TIMEOUT."""
        if self._transport.is_closing():
            return
        if error is not None and self._h2.state_machine.state is not ConnectionState.CLOSED:
            self._h2.close_connection(error)
        self.connection.flush()
        self.processor.close()
        asyncio.get_running_loop().call_later(CLOSING_TIMEOUT, self._transport.abort)

    def abort(self) -> None:
        """Closes the connection at once; what is queued is lost."""
        self._transport.abort()

    async def close_gracefully(self, timeout: float) -> None:
        """Closes the connection once the peer has read everything that was sent to it.

        There are clients, grpclib's own among them, that drop at a GOAWAY or the end of the connection what
        they have not read yet; the answer to a ping shows that they have.

        Args:
            timeout: seconds to wait for that answer, and as many for the peer to take in the rest.
        """
        with contextlib.suppress(TimeoutError, h2.exceptions.ProtocolError):
            async with asyncio.timeout(timeout):
                self._ponged.clear()
                if not self._transport.is_closing():
                    self._h2.ping(b"shutdown")
                    self.connection.flush()
                    await self._ponged.wait()
        self._close(ErrorCodes.NO_ERROR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.lost.wait()
        self._transport.abort()
