"""Calls whose deadline passes, or whose client goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimpy.transport.ttrpc import TtrpcServer
from tests.support.clock import leap
from tests.support.leaks import eventually
from tests.support.rawttrpc import DATA, Handlers, Peer, connected, frame, request

pytestmark = pytest.mark.anyio

# Nanoseconds.
HOUR = 3600 * 10**9


@pytest.fixture(autouse=True)
def no_errors_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_handler_is_cancelled_at_the_deadline(peer: Peer, handlers: Handlers) -> None:
    peer.send(request(1, "Hold", "web", timeout=HOUR))
    await eventually(lambda: handlers.begun)
    leap(3601)

    assert await peer.answer() == (1, "DEADLINE_EXCEEDED", "the deadline passed")
    assert handlers.cancelled == ["web"]


async def test_a_call_that_ends_in_time_is_not_cancelled(peer: Peer, handlers: Handlers) -> None:
    peer.send(request(1, "Hold", "web", timeout=HOUR))
    await eventually(lambda: handlers.begun)
    handlers.release.set()
    assert await peer.answer() == (1, "OK", "web")
    leap(3601)
    peer.send(request(3))

    assert await peer.answer() == (3, "OK", "x")


async def test_a_deadline_that_has_passed_already(peer: Peer, handlers: Handlers) -> None:
    peer.send(request(1, "Hold", timeout=-1))

    assert await peer.answer() == (
        1,
        "DEADLINE_EXCEEDED",
        "the deadline had passed before the call was made",
    )
    assert handlers.begun == []


@pytest.mark.parametrize("timeout", [1, 2**63 - 1], ids=["a nanosecond", "292 years"])
async def test_any_timeout_is_taken(peer: Peer, timeout: int) -> None:
    peer.send(request(1, timeout=timeout))

    assert (await peer.answer())[1] in {"OK", "DEADLINE_EXCEEDED"}


async def test_what_a_handler_has_done_all_the_same_is_the_answer(peer: Peer, handlers: Handlers) -> None:
    handlers.stubborn = True
    peer.send(request(1, "Hold", "web", timeout=HOUR))
    await eventually(lambda: handlers.begun)
    leap(3601)

    assert await peer.answer() == (1, "OK", "web")


async def test_a_handler_is_cancelled_when_its_client_goes(
    handlers: Handlers, server: TtrpcServer, path: Path, bystander: Peer
) -> None:
    async with connected(path) as peer:
        peer.send(request(1, "Hold", "a") + request(3, "Hold", "b"))
        await eventually(lambda: len(handlers.begun) == 2)

    await eventually(lambda: sorted(handlers.cancelled) == ["a", "b"])
    assert len(server._shared.calls) == 0


async def test_a_client_that_ends_its_side_is_gone(peer: Peer, handlers: Handlers) -> None:
    peer.send(request(1, "Hold", "web"))
    await eventually(lambda: handlers.begun)
    peer.writer.write_eof()

    assert await peer.hung_up()
    assert handlers.cancelled == ["web"]


async def test_a_client_that_is_gone_at_once_leaves_nothing(
    handlers: Handlers, server: TtrpcServer, path: Path
) -> None:
    async with connected(path) as peer:
        peer.send(request(1, "Hold", "web"))
        peer.writer.write_eof()
        assert await peer.hung_up()

    await eventually(lambda: not server._shared.calls)
    assert handlers.begun == handlers.cancelled


async def test_a_rollback_is_not_torn_apart(peer: Peer, handlers: Handlers, server: TtrpcServer) -> None:
    handlers.rolling_back = asyncio.Event()
    peer.send(request(1, "Hold", "web", timeout=HOUR))
    await eventually(lambda: handlers.begun)
    leap(3601)
    await eventually(lambda: handlers.cancelled)
    peer.writer.transport.abort()
    await eventually(lambda: server.connected == 0)
    assert len(server._shared.calls) == 1
    handlers.rolling_back.set()

    await eventually(lambda: not server._shared.calls)
    assert handlers.cancelled == ["web"]


async def test_a_handler_that_cancels_itself(peer: Peer, handlers: Handlers) -> None:
    handlers.error = asyncio.CancelledError()
    peer.send(request(1, "Fail"))

    assert await peer.answer() == (1, "CANCELLED", "the call was cancelled")


async def test_the_first_reason_for_a_call_to_end_is_the_one_that_is_told(
    peer: Peer, handlers: Handlers
) -> None:
    handlers.rolling_back = asyncio.Event()
    peer.send(request(1, "Hold", "web", timeout=HOUR))
    await eventually(lambda: handlers.begun)
    leap(3601)
    await eventually(lambda: handlers.cancelled)
    peer.send(frame(1, DATA) + request(3))
    assert await peer.answer() == (3, "OK", "x")
    handlers.rolling_back.set()

    assert await peer.answer() == (1, "DEADLINE_EXCEEDED", "the deadline passed")
