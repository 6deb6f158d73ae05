"""containerd's end of the events, as a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from shimpy.api import events, well_known
from shimpy.errors import ShimError
from shimpy.services.task.publisher import SERVICE
from shimpy.transport.methods import Method
from shimpy.transport.ttrpc import TtrpcServer


class EventsServer:
    """Takes events.

    Attributes:
        taken: what has come, in order.
        refusals: errors to answer the next calls with.
        open: whether calls are answered; cleared, they wait.
    """

    def __init__(self) -> None:
        self.taken: list[events.Envelope] = []
        self.refusals: list[ShimError] = []
        self.open = asyncio.Event()
        self.open.set()
        self.asked = 0

    @property
    def topics(self) -> list[str]:
        return [envelope.topic for envelope in self.taken]

    async def forward(self, request: events.ForwardRequest) -> well_known.Empty:
        self.asked += 1
        await self.open.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        self.taken.append(request.envelope)
        return well_known.Empty()

    @contextlib.asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[TtrpcServer]:
        """Serves on a socket, which may have been another's."""
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        server = TtrpcServer({SERVICE: {"Forward": Method(self.forward, events.ForwardRequest)}})
        await server.start(listener)
        try:
            yield server
        finally:
            await server.drain(0)
