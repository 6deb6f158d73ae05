"""Collecting an Events stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError

from shimpy.api import Event, EventsRequest, EventType, ShimStub
from tests.support.time_scale import scaled


class Recorder:
    """Every event since the subscription, in order; made by `record`.

    Attributes:
        seen: the events so far.
        error: what the stream has ended with, if it was not OK.
    """

    def __init__(self, shim: ShimStub) -> None:
        self.seen: list[Event] = []
        self.error: GRPCError | StreamTerminatedError | None = None
        self._over = False
        self._subscribed = asyncio.Event()
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._collect(shim))

    async def _collect(self, shim: ShimStub) -> None:
        request = shim.channel.request(
            "/containerd.shim.v1.Shim/Events", Cardinality.UNARY_STREAM, EventsRequest, Event
        )
        try:
            async with request as stream:
                await stream.send_message(EventsRequest(), end=True)
                await stream.recv_initial_metadata()
                self._subscribed.set()
                async for event in stream:
                    async with self._news:
                        self.seen.append(event)
                        self._news.notify_all()
        except (GRPCError, StreamTerminatedError) as error:
            self.error = error
        finally:
            self._over = True
            self._subscribed.set()
            async with self._news:
                self._news.notify_all()

    def of(self, pid: int) -> list[int]:
        """Returns the types of the events of one process, in order."""
        return [event.type for event in self.seen if event.pid == pid]

    @property
    def types(self) -> list[int]:
        """The types of all events, in order."""
        return [event.type for event in self.seen]

    async def subscribed(self, *, within: float = 10) -> None:
        """Returns when the response headers are there: from then on nothing is missed.

        Args:
            within: seconds until the test fails.
        """
        async with asyncio.timeout(scaled(within)):
            await self._subscribed.wait()

    async def wait_for(
        self, type: int, pid: int | None = None, *, count: int = 1, within: float = 20
    ) -> Event:
        """Waits until there are *count* events of a type, and returns the last of these.

        Args:
            type: an EventType, whose members are plain numbers to a type checker.
            pid: of which process; None for any.
            count: how many.
            within: seconds until the test fails.
        """

        def matching() -> list[Event]:
            return [event for event in self.seen if event.type == type and pid in (None, event.pid)]

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(scaled(within)), self._news:
                await self._news.wait_for(lambda: len(matching()) >= count or self._over)
        found = matching()
        assert len(found) >= count, (
            f"no {EventType(type)} of {pid or 'any'}; seen: {self.seen}; ended: {self.error}"
        )
        return found[count - 1]

    async def ended(self, *, within: float = 20) -> GRPCError | StreamTerminatedError | None:
        """Waits until the stream has ended, and returns what it ended with if that was not OK.

        Args:
            within: seconds until the test fails.
        """
        async with asyncio.timeout(scaled(within)):
            await asyncio.wait([self._task])
        return self.error

    async def close(self) -> None:
        """Leaves the stream."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def record(shim: ShimStub) -> AsyncIterator[Recorder]:
    """Subscribes, and yields once the response headers say that the subscription holds."""
    recorder = Recorder(shim)
    try:
        await recorder.subscribed()
        yield recorder
    finally:
        await recorder.close()
