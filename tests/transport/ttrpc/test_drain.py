"""How the server takes leave."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shimpy.transport.ttrpc import TtrpcServer
from tests.support.leaks import eventually
from tests.support.rawttrpc import Handlers, Peer, connected, request

pytestmark = pytest.mark.anyio


async def test_calls_under_way_are_answered_and_connections_closed(
    peer: Peer, handlers: Handlers, server: TtrpcServer
) -> None:
    peer.send(request(1, "Hold", "web"))
    await eventually(lambda: handlers.begun)
    draining = asyncio.create_task(server.drain(60))
    await asyncio.sleep(0)
    peer.send(request(3))
    assert await peer.answer() == (3, "UNAVAILABLE", "the shim is shutting down")
    handlers.release.set()

    assert await peer.answer() == (1, "OK", "web")
    assert await peer.hung_up()
    await draining
    assert server.connected == 0


async def test_what_does_not_end_in_time_is_unavailable(
    peer: Peer, handlers: Handlers, server: TtrpcServer
) -> None:
    peer.send(request(1, "Hold", "web"))
    await eventually(lambda: handlers.begun)
    await server.drain(0)

    assert await peer.answer() == (1, "UNAVAILABLE", "the shim is shutting down")
    assert await peer.hung_up()
    assert handlers.cancelled == ["web"]


async def test_nobody_can_connect_any_more(server: TtrpcServer, path: Path) -> None:
    await server.drain(0)

    with pytest.raises(ConnectionRefusedError):
        async with connected(path):
            pass


async def test_a_client_that_reads_is_not_waited_for_longer_than_it_takes(
    peer: Peer, server: TtrpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shimpy.transport.ttrpc.server._LAST_ANSWERS", 3600)
    transport: Any = peer.writer.transport
    transport.pause_reading()
    peer.send(request(1, "Long", "4000000"))
    await eventually(lambda: _unread(server))
    transport.resume_reading()
    draining = asyncio.create_task(server.drain(60))

    assert await peer.answer() == (1, "OK", "x" * 4_000_000)
    assert await peer.hung_up()
    async with asyncio.timeout(20):
        await draining


async def test_a_client_that_does_not_read_is_not_waited_for(
    peer: Peer, handlers: Handlers, server: TtrpcServer
) -> None:
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that both reads and writes
    peer.send(request(1, "Long", "4000000"))
    await eventually(lambda: not server._shared.calls and _unread(server))
    await server.drain(0)

    assert server.connected == 0


async def test_a_handler_that_does_not_end_is_not_waited_for(
    peer: Peer, handlers: Handlers, server: TtrpcServer
) -> None:
    handlers.rolling_back = asyncio.Event()
    peer.send(request(1, "Hold", "web"))
    await eventually(lambda: handlers.begun)
    await server.drain(0)

    assert server.connected == 0
    handlers.rolling_back.set()
    await eventually(lambda: not server._shared.calls)


def _unread(server: TtrpcServer) -> int:
    return sum(each.transport.get_write_buffer_size() for each in server._shared.connections)
