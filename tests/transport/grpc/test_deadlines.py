"""Calls whose deadline passes, and clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from grpclib.const import Status

from shimpy import api
from shimpy.transport.grpc import GrpcServer
from tests.support.clock import leap
from tests.support.fake import FakeShim
from tests.support.leaks import eventually
from tests.support.rawhttp2 import RawClient, connect, message

pytestmark = pytest.mark.anyio


async def test_a_deadline_that_passes_cancels_the_call(fake: FakeShim, raw: RawClient) -> None:
    stream = raw.start(raw.headers("Pause", {"grpc-timeout": "100S"}))
    raw.send(stream, message())
    await fake.until(lambda: fake.paused == 1)
    leap(100)

    assert (await raw.answer(stream)).status is Status.DEADLINE_EXCEEDED
    assert fake.cancelled == 1


async def test_a_call_that_comes_to_its_answer_as_its_deadline_passes_is_OK(  # noqa: N802
    fake: FakeShim, raw: RawClient
) -> None:
    begun = asyncio.Event()

    async def too_late(_: api.CreateRequest) -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    fake.create_does = too_late
    stream = raw.start(raw.headers("Create", {"grpc-timeout": "100S"}))
    raw.send(stream, message())
    await begun.wait()
    leap(100)

    assert (await raw.answer(stream)).status is Status.OK


async def test_what_is_being_undone_is_not_broken_off_again(
    fake: FakeShim, at: tuple[GrpcServer, Path], raw: RawClient, caplog: pytest.LogCaptureFixture
) -> None:
    begun, undoing, undone = asyncio.Event(), asyncio.Event(), asyncio.Event()
    steps = []

    async def undo(_: api.CreateRequest) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            undoing.set()
            await undone.wait()
            steps.append("undone")

    fake.create_does = undo
    stream = raw.start(raw.headers("Create", {"grpc-timeout": "100S"}))
    raw.send(stream, message())
    await begun.wait()
    leap(100)
    await undoing.wait()
    raw.http.reset_stream(stream)
    raw.flush()
    assert (await raw.answer(raw.request())).status is Status.OK  # the reset has been seen
    raw.writer.close()
    await eventually(lambda: not at[0]._connections)  # so has the end of the connection
    draining = asyncio.create_task(at[0].drain(0))
    await eventually(lambda: "broken off" in caplog.text)
    undone.set()
    await draining
    assert steps == ["undone"]


async def test_a_client_that_cancels_a_call_cancels_it_here(fake: FakeShim, stub: api.ShimStub) -> None:
    calls = [asyncio.create_task(stub.pause(api.PauseRequest())) for _ in range(10)]
    await fake.until(lambda: fake.paused == 10)
    for call in calls:
        call.cancel()

    await fake.until(lambda: fake.cancelled == 10)
    assert (await stub.state(api.StateRequest())).id == "fake"


async def test_a_client_that_dies_cancels_its_calls_and_no_others(
    fake: FakeShim, path: Path, stub: api.ShimStub
) -> None:
    other = asyncio.create_task(stub.pause(api.PauseRequest()))
    await fake.until(lambda: fake.paused == 1)
    async with connect(path) as client:
        for _ in range(5):
            client.request("Pause")
        await fake.until(lambda: fake.paused == 6)

    await fake.until(lambda: fake.cancelled == 5)
    assert not other.done()
    other.cancel()
