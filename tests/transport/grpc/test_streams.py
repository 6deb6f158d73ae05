"""Streams of events, many at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from grpclib.const import Status

from shimpy import api
from shimpy.errors import ShimError
from shimpy.transport.grpc.limits import MAX_STREAMS
from tests.support.fake import FakeShim, failure
from tests.support.rawhttp2 import RawClient, connect, message

pytestmark = pytest.mark.anyio


async def test_headers_go_out_once_subscribed_and_before_any_event(fake: FakeShim, raw: RawClient) -> None:
    stream = raw.request("Events")
    while not raw.answers[stream].headers:
        await raw.read()

    assert len(fake.subscribers) == 1
    fake.publish(api.Event(pid=5))
    fake.publish(None)
    answer = await raw.answer(stream)
    assert (answer.data, answer.status) == (message(bytes(api.Event(pid=5))), Status.OK)


async def test_a_stream_that_fails_ends_with_its_status(fake: FakeShim, either: api.ShimStub) -> None:
    events = either.events(api.EventsRequest())
    first = asyncio.ensure_future(anext(events))
    await fake.until(lambda: len(fake.subscribers) == 1)
    fake.publish(api.Event(pid=5))
    assert (await first).pid == 5

    fake.publish(ShimError("gone wrong"))
    error = await failure(anext(events))
    assert (error.status, error.message) == (Status.INTERNAL, "gone wrong")


async def test_a_subscriber_that_leaves_is_forgotten(fake: FakeShim, path: Path) -> None:
    async with connect(path) as client:
        streams = [client.request("Events") for _ in range(3)]
        await fake.until(lambda: len(fake.subscribers) == 3)
        client.http.reset_stream(streams[0])
        client.flush()
        await fake.until(lambda: len(fake.subscribers) == 2)
    await fake.until(lambda: not fake.subscribers)


async def test_a_malformed_request_gets_no_stream(fake: FakeShim, raw: RawClient) -> None:
    answer = await raw.answer(raw.request("Events", message(b"\xff")))

    assert answer.status is Status.INVALID_ARGUMENT
    assert fake.subscribed == 0


async def test_a_subscriber_that_does_not_read_delays_nobody(fake: FakeShim, path: Path) -> None:
    async with connect(path) as asleep, connect(path) as awake:
        asleep.request("Events")
        await fake.until(lambda: len(fake.subscribers) == 1)
        stream = awake.request("Events")
        await fake.until(lambda: len(fake.subscribers) == 2)
        event = api.Event(id="x" * 1000)
        for _ in range(1_000):
            fake.publish(event)
        fake.publish(None)

        answer = await awake.answer(stream)
        assert answer.status is Status.OK
        assert answer.data.count(event.id.encode()) == 1_000


async def test_a_unary_call_is_answered_beside_a_thousand_streams(fake: FakeShim, raw: RawClient) -> None:
    streams = [raw.request("Events") for _ in range(1_000)]
    await fake.until(lambda: len(fake.subscribers) == 1_000)

    assert (await raw.answer(raw.request())).status is Status.OK
    fake.publish(api.Event(pid=9))
    fake.publish(None)
    for stream in streams:
        answer = await raw.answer(stream)
        assert (answer.data, answer.status) == (message(bytes(api.Event(pid=9))), Status.OK)


async def test_google_s_client_has_as_many_streams_as_are_offered(
    fake: FakeShim, path: Path, foreign: tuple[ModuleType, ModuleType]
) -> None:
    messages, stubs = foreign
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        client = stubs.ShimStub(channel)
        streams = [client.Events(messages.EventsRequest()) for _ in range(300)]
        for stream in streams:
            await stream.initial_metadata()
        assert (await client.State(messages.StateRequest())).id == "fake"
        fake.publish(api.Event(pid=9))
        fake.publish(None)
        for stream in streams:
            assert [event.pid async for event in stream] == [9]
            assert await stream.code() is grpc.StatusCode.OK


async def test_one_stream_too_many_is_refused_and_the_others_live(fake: FakeShim, raw: RawClient) -> None:
    await raw.ignore_stream_limit()
    for _ in range(MAX_STREAMS):
        raw.request("Events")
    await fake.until(lambda: len(fake.subscribers) == MAX_STREAMS)

    refused = await raw.answer(raw.start(raw.headers()))
    assert refused.reset == 7  # REFUSED_STREAM
    fake.publish(None)
    for answer in [await raw.answer(stream) for stream in raw.answers if stream < raw.last_stream]:
        assert answer.status is Status.OK
    assert (await raw.answer(raw.request())).status is Status.OK
