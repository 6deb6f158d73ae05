"""A service that does as it is told, for tests of what stands before the real one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Handler
from grpclib.exceptions import GRPCError

from shimpy import api
from shimpy.transport.grpc import GrpcServer, wrap


class FakeShim(api.ShimBase):
    """Answers State; lets the test say what Create does; streams what the test publishes.

    Attributes:
        received: the requests of Create.
        create_does: what Create does with its request.
        subscribers: a queue for each Events stream; None in it ends the stream.
        subscribed: how many Events streams have begun.
        cancelled: how many calls of Pause were cancelled; each waits for ever.
    """

    def __init__(self) -> None:
        self.received: list[api.CreateRequest] = []
        self.create_does: Callable[[api.CreateRequest], Awaitable[None]] | None = None
        self.subscribers: list[asyncio.Queue[api.Event | BaseException | None]] = []
        self.subscribed = 0
        self.paused = 0
        self.cancelled = 0
        self.changed = asyncio.Condition()

    def __mapping__(self) -> dict[str, Handler]:
        return wrap(super().__mapping__(), streams={"/containerd.shim.v1.Shim/Events": self.subscribe})

    async def state(self, state_request: api.StateRequest) -> api.StateResponse:
        return api.StateResponse(id="fake")

    async def create(self, create_request: api.CreateRequest) -> api.CreateResponse:
        self.received.append(create_request)
        await self._tell()
        if self.create_does is not None:
            await self.create_does(create_request)
        return api.CreateResponse(pid=7)

    async def pause(self, pause_request: api.PauseRequest) -> Any:
        self.paused += 1
        await self._tell()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            # Not awaited: what follows a cancellation may be cancelled too.
            self._telling = asyncio.ensure_future(self._tell())

    def subscribe(self, request: api.EventsRequest) -> AsyncGenerator[api.Event, None]:
        queue: asyncio.Queue[api.Event | BaseException | None] = asyncio.Queue()
        self.subscribers.append(queue)
        self.subscribed += 1
        self._telling = asyncio.ensure_future(self._tell())
        return self._events(queue)

    async def _events(
        self, queue: asyncio.Queue[api.Event | BaseException | None]
    ) -> AsyncGenerator[api.Event, None]:
        try:
            while (event := await queue.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.subscribers.remove(queue)
            self._telling = asyncio.ensure_future(self._tell())

    def publish(self, event: api.Event | BaseException | None) -> None:
        """Gives an event to every subscriber; None ends their streams, an exception fails them."""
        for queue in self.subscribers:
            queue.put_nowait(event)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when a condition on this service holds."""
        async with self.changed:
            await self.changed.wait_for(condition)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@contextlib.asynccontextmanager
async def serving(*services: Any, **options: Any) -> AsyncIterator[tuple[GrpcServer, Path]]:
    """Serves on a socket in this process; yields the server and the path.

    Args:
        services: what to serve.
        options: arguments of GrpcServer.
    """
    with tempfile.TemporaryDirectory(prefix="shimpy-test-") as directory:
        path = Path(directory) / "s"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        server = GrpcServer(services, **options)
        await server.start(listener)
        try:
            yield server, path
        finally:
            await server.drain(0)
            listener.close()


async def failure(call: Awaitable[object]) -> GRPCError:
    """Returns the error that a call ends with; fails if it ends well."""
    with pytest.raises(GRPCError) as error:
        await call
    return error.value


def raises(fake: FakeShim, error: BaseException) -> None:
    """Has the next Create fail."""

    async def do(_: api.CreateRequest) -> None:
        raise error

    fake.create_does = do
