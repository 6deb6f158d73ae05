"""A subscription to a shim's events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpclib.const import Cardinality

from shimpy import api
from shimpy.client.call import call
from shimpy.client.model import Event, EventType

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from grpclib.client import Channel, Stream

_METHOD = "/containerd.shim.v1.Shim/Events"


class EventStream:
    """A shim's events, for ``async for``.

    Once ``async with`` has been entered the subscription exists: every event from then on comes,
    in order. A shim's first subscriber also gets what was published before it came. Without
    ``async with`` the first iteration subscribes, and :meth:`aclose` is yours to call.

    The iteration ends when the shim shuts down. It raises UnavailableError when the shim is lost,
    ResourceExhaustedError when too many events have been left unread.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stream: Stream[api.EventsRequest, api.Event] | None = None

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        stream = await self._opened()
        while True:
            message = await call(stream.recv_message())
            if message is None:
                await call(stream.recv_trailing_metadata())  # raises how it ended, if not well
                await self.aclose()
                raise StopAsyncIteration
            event = _event(message)
            if event is not None:
                return event

    async def aclose(self) -> None:
        """Ends the subscription."""
        stream, self._stream = self._stream, None
        if stream is not None:
            # Left as by an exception: otherwise it would wait for the shim to end the stream.
            await stream.__aexit__(GeneratorExit, GeneratorExit(), None)

    async def _opened(self) -> Stream[api.EventsRequest, api.Event]:
        if self._stream is None:
            stream = self._channel.request(_METHOD, Cardinality.UNARY_STREAM, api.EventsRequest, api.Event)
            self._stream = await stream.__aenter__()
            try:
                await call(self._stream.send_message(api.EventsRequest(), end=True))
                await call(self._stream.recv_initial_metadata())
            except BaseException:
                await self.aclose()
                raise
        return self._stream


def _event(message: api.Event) -> Event | None:
    kind = EventType.__members__.get(message.type.name or "")
    if kind is None:  # of a newer shim
        return None
    status = message.exit_status if kind is EventType.EXIT else None
    return Event(message.id, kind, message.pid, status)
