"""A subscription to a shim's events."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.abc import ObjectReceiveStream
from grpclib.const import Cardinality

from shimpy import api
from shimpy.client.model import Event, EventType
from shimpy.client.restarts import MOST_ENDS, CallRepeater
from shimpy.client.rpc import call
from shimpy.errors import ResourceExhaustedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from types import TracebackType
    from typing import Self

    from grpclib.client import Channel, Stream

    _Stream = Stream[api.EventsRequest, api.Event]

T = TypeVar("T")


_METHOD = "/containerd.shim.v1.Shim/Events"

# Metadata of a request: the number of the last event that was received. Of its reply: that of the first one
# that follows.
_AFTER = "shimpy-after"
_SEQUENCE = "shimpy-sequence"


class EventStream(ObjectReceiveStream[Event]):
    """A shim's events, for `async for`; an `anyio.abc.ObjectReceiveStream`.

    Once `async with` has been entered the subscription exists: every event from then on comes,
    in order. A shim's first subscriber also gets what was published before it came. Without
    `async with` the first iteration subscribes, and `aclose` is yours to call.

    At a shim whose socket outlives it (see `shimpy.connect`) it goes on where the next shim goes on.

    The iteration ends when the shim shuts down, and when the subscription is closed, which is for
    good. It raises UnavailableError when the shim is lost, ResourceExhaustedError when too many
    events have been left unread.
    """

    def __init__(self, channel: Channel, repeater: CallRepeater) -> None:
        self._channel = channel
        self._repeater = repeater
        self._stream: _Stream | None = None
        # The sequence number of the last event; None if the shim has none that outlive it.
        self._last: int | None = None
        self._connection = 0
        self._closed = False
        self._calls: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        if self._closed:
            raise RuntimeError("this subscription has ended; events() makes another")
        await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def receive(self) -> Event:
        """Returns the next event.

        Raises:
            anyio.EndOfStream: the shim has shut down, or the subscription was closed.
            ShimError: see above.
        """
        if self._closed:
            raise anyio.EndOfStream
        stream = await self._opened()
        while True:
            try:
                message = await self._unless_closed(_received(stream))
            except UnavailableError as error:
                stream = await self._opened_again(error)
                continue
            if message is None:
                stream = await self._opened_after_the_end()
                continue
            if self._last is not None:
                self._last += 1
            event = _event(message)
            if event is not None:
                return event

    async def aclose(self) -> None:
        """Ends the subscription and any iteration over it."""
        self._closed = True
        for task in self._calls:  # grpclib would leave who waits there waiting
            task.cancel()
        await self._release()

    async def _release(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            # Left as by an exception: otherwise it would wait for the shim to end the stream.
            await stream.__aexit__(GeneratorExit, GeneratorExit(), None)

    async def _opened(self) -> _Stream:
        for _ in range(MOST_ENDS):
            if self._stream is None:
                self._connection = self._repeater.connection()
                opening = self._channel.request(
                    _METHOD,
                    Cardinality.UNARY_STREAM,
                    api.EventsRequest,
                    api.Event,
                    metadata=None if self._last is None else {_AFTER: str(self._last)},
                )
                self._stream = await opening.__aenter__()
                try:
                    await self._unless_closed(_subscribed(self._stream))
                    self._connection = self._repeater.connection()
                    self._begin(self._stream.initial_metadata)
                except UnavailableError as error:
                    await self._release()
                    if not await self._unless_closed(
                        self._repeater.is_to_be_repeated(error, self._connection)
                    ):
                        raise
                    continue
                except BaseException:
                    await self._release()
                    raise
            return self._stream
        raise UnavailableError("the shim has ended too often to subscribe to it")

    def _begin(self, metadata: Mapping[str, Any] | None) -> None:
        """Looks whether it goes on with the event after the last one."""
        first = (metadata or {}).get(_SEQUENCE)
        last, self._last = self._last, int(first) - 1 if self._repeater.repeats and first else None
        if last is None or last == self._last:
            return
        if self._last is None or self._last < last:
            raise UnavailableError("events: the shim does not know what was told by the one before it")
        raise ResourceExhaustedError(f"events: {self._last - last} were not read before they were forgotten")

    async def _opened_again(self, error: UnavailableError) -> _Stream:
        """Goes on at the shim that follows; what has ended this one is raised if none does."""
        await self._release()
        if self._last is None or not await self._unless_closed(
            self._repeater.is_to_be_repeated(error, self._connection)
        ):
            raise error
        return await self._opened()

    async def _opened_after_the_end(self) -> _Stream:
        """Goes on at the shim that follows one that has shut down."""
        await self._release()
        if self._last is not None and await self._unless_closed(self._repeater.has_ended(self._connection)):
            with suppress(UnavailableError):
                return await self._opened()
        await self.aclose()
        raise anyio.EndOfStream

    async def _unless_closed(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Makes calls; if the subscription is closed in the meantime, the iteration ends."""
        task = asyncio.ensure_future(coroutine)
        self._calls.add(task)
        try:
            # Not awaited itself: its cancellation by a close would look like one of the caller.
            await asyncio.wait({task})
        finally:
            self._calls.discard(task)
            task.cancel()
        if task.cancelled() and self._closed:
            raise anyio.EndOfStream
        return task.result()


async def _subscribed(stream: _Stream) -> None:
    await call(stream.send_message(api.EventsRequest(), end=True))
    await call(stream.recv_initial_metadata())


async def _received(stream: _Stream) -> api.Event | None:
    async def received() -> api.Event | None:
        message = await stream.recv_message()
        if message is None:
            # At once: the connection may be lost next, and with it how the stream ended.
            await stream.recv_trailing_metadata()  # raises it, if not well
        return message

    return await call(received())


def _event(message: api.Event) -> Event | None:
    kind = EventType.__members__.get(message.type.name or "")
    if kind is None:  # of a newer shim
        return None
    status = message.exit_status if kind is EventType.EXIT else None
    return Event(message.id, kind, message.pid, status)
