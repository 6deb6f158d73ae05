"""A server hands its connections over to another, which goes on with them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shimpy.transport.methods import Method
from shimpy.transport.ttrpc import TtrpcServer
from shimpy.transport.ttrpc.envelope import decode_request
from shimpy.transport.ttrpc.frames import MAX_PAYLOAD
from tests.support.leaks import eventually
from tests.support.rawttrpc import REQUEST, SERVICE, Handlers, Peer, connected, frame, request

pytestmark = pytest.mark.anyio


@pytest.fixture
async def handlers() -> Handlers:
    """A service whose Hold is repeatable."""
    handlers = Handlers()
    hold = handlers.services[SERVICE]["Hold"]
    handlers.services[SERVICE]["Hold"] = Method(hold.handler, hold.request, repeatable=True)
    return handlers


@contextlib.asynccontextmanager
async def next_server(server: TtrpcServer, handlers: Handlers) -> AsyncIterator[TtrpcServer]:
    """Hands everything over, with file descriptors of the next one's own."""
    listener = await server.pause()
    connections = [(os.dup(fd), known) for fd, known in server.hand_over()]
    next_one = TtrpcServer(handlers.services)
    await next_one.take_up(connections)
    await next_one.start(listener)
    try:
        yield next_one
    finally:
        handlers.release.set()
        await next_one.drain(1)


async def test_a_frame_is_taken_in_from_where_it_was_left(
    server: TtrpcServer, handlers: Handlers, peer: Peer
) -> None:
    data = request(3, argument="whole")
    peer.send(request(1) + data[:15])
    assert await peer.answer() == (1, "OK", "x")
    async with next_server(server, handlers):
        peer.send(data[15:])

        assert await peer.answer() == (3, "OK", "whole")


async def test_a_frame_that_is_too_long_is_read_past(
    server: TtrpcServer, handlers: Handlers, peer: Peer
) -> None:
    length = MAX_PAYLOAD + 1
    peer.send(request(1) + frame(3, REQUEST, b"x" * 100, length=length))
    assert await peer.answer() == (1, "OK", "x")
    async with next_server(server, handlers):
        peer.send(b"x" * (length - 100) + request(5))

        assert (await peer.answer())[:2] == (3, "RESOURCE_EXHAUSTED")
        assert await peer.answer() == (5, "OK", "x")


async def test_what_waits_is_begun_anew_on_its_stream(
    server: TtrpcServer, handlers: Handlers, peer: Peer
) -> None:
    peer.send(request(5, "Hold", "one") + request(9, "Hold", "two") + request(11))
    assert await peer.answer() == (11, "OK", "x")
    async with next_server(server, handlers):
        await eventually(lambda: handlers.begun == ["one", "two"] * 2)
        peer.send(request(11) + request(13))
        assert await peer.answer() == (
            11,
            "INVALID_ARGUMENT",
            "stream 11: numbers of streams have to rise",
        )
        assert await peer.answer() == (13, "OK", "x")
        handlers.release.set()

        assert {await peer.answer() for _ in range(2)} == {(5, "OK", "one"), (9, "OK", "two")}


async def test_of_a_deadline_what_is_left_goes_along(server: TtrpcServer, peer: Peer) -> None:
    peer.send(request(1, "Hold", timeout=10**12) + request(3, "Hold") + request(5))
    assert await peer.answer() == (5, "OK", "x")
    (await server.pause()).close()
    ((_, known),) = server.hand_over()

    timeouts = {stream: decode_request(base64.b64decode(call)).timeout for stream, call in known["calls"]}
    assert 0 < timeouts[1] < 10**12
    assert timeouts[3] == 0


async def test_nothing_is_read_of_who_is_paused(server: TtrpcServer, handlers: Handlers, path: Path) -> None:
    """Nor of who comes then; all are answered when it goes on."""
    async with connected(path) as before:
        before.send(request(1))
        assert await before.answer() == (1, "OK", "x")
        listener = await server.pause()
        async with connected(path) as after:
            for peer in (before, after):
                peer.send(request(3, "Hold", "held back"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert handlers.begun == []
            await server.resume(listener)
            handlers.release.set()

            for peer in (before, after):
                assert await peer.answer() == (3, "OK", "held back")


async def test_what_is_under_way_is_named(server: TtrpcServer, handlers: Handlers, peer: Peer) -> None:
    """But not what waits."""
    hold = handlers.services[SERVICE]["Hold"]
    handlers.services[SERVICE]["Long"] = Method(hold.handler, hold.request)
    peer.send(request(1, "Hold") + request(3, "Long"))
    await eventually(lambda: len(handlers.begun) == 2)

    assert list(server.under_way.values()) == [f"{SERVICE}/Long"]


async def test_answers_that_are_not_read_are_seen(server: TtrpcServer, peer: Peer) -> None:
    sock = peer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined]  # of asyncio's own
    peer.send(request(1, "Long", "3000000"))
    await eventually(lambda: server.has_unsent)
    peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
    assert (await peer.answer())[:2] == (1, "OK")

    await eventually(lambda: not server.has_unsent)
