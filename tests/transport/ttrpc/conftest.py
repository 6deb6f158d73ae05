"""A server with handlers of the test's own, and peers of it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shimpy.transport.ttrpc import Client, TtrpcServer, connect
from tests.support.rawttrpc import Handlers, Peer, connected, request, serving


@pytest.fixture
def path() -> Iterator[Path]:
    """Where the server listens: short enough for the address of a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory, "socket")


@pytest.fixture
async def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
async def server(handlers: Handlers, path: Path) -> AsyncIterator[TtrpcServer]:
    async with serving(handlers, path) as server:
        yield server


@pytest.fixture
async def peer(server: TtrpcServer, path: Path) -> AsyncIterator[Peer]:
    async with connected(path) as peer:
        yield peer


@pytest.fixture
async def client(server: TtrpcServer, path: Path) -> AsyncIterator[Client]:
    client = await connect(str(path))
    yield client
    client.close()


@pytest.fixture
async def bystander(server: TtrpcServer, path: Path) -> AsyncIterator[Peer]:
    """Another client, which is to notice nothing."""
    async with connected(path) as peer:
        yield peer
        peer.send(request(1, argument="still here"))
        assert await peer.answer() == (1, "OK", "still here")
