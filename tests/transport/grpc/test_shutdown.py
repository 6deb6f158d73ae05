"""How calls, streams and connections end when the server does."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import ModuleType

import grpc
import h2.events
import pytest
from grpclib.const import Status

from shimpy import api
from shimpy.transport.grpc import GrpcServer
from tests.support.fake import FakeShim, failure
from tests.support.rawhttp2 import RawClient, connect

pytestmark = pytest.mark.anyio


async def test_calls_under_way_get_their_answer_and_streams_end_with_OK(  # noqa: N802
    fake: FakeShim, at: tuple[GrpcServer, Path], stub: api.ShimStub
) -> None:
    server, _ = at
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(_: api.CreateRequest) -> None:
        begun.set()
        await go.wait()
        fake.publish(api.Event(pid=7))

    fake.create_does = wait
    creating = asyncio.create_task(stub.create(api.CreateRequest()))
    events: list[int] = []

    async def follow() -> None:
        async for event in stub.events(api.EventsRequest()):
            events.append(event.pid)  # noqa: PERF401 - a failure shall show what has come

    following = asyncio.create_task(follow())
    await begun.wait()
    await fake.until(lambda: len(fake.subscribers) == 1)

    draining = asyncio.create_task(server.drain(30, end_streams=lambda: fake.publish(None)))
    await asyncio.sleep(0)
    refused = await failure(stub.state(api.StateRequest()))
    assert refused.status is Status.UNAVAILABLE
    go.set()
    assert (await creating).pid == 7
    await following
    assert events == [7]
    await draining


async def test_what_does_not_end_is_ended_with_UNAVAILABLE(  # noqa: N802
    fake: FakeShim, at: tuple[GrpcServer, Path], raw: RawClient
) -> None:
    streams = [raw.request("Pause"), raw.request("Events")]
    await fake.until(lambda: bool(fake.paused and fake.subscribers))
    draining = asyncio.create_task(at[0].drain(0.05))

    for stream in streams:
        assert (await raw.answer(stream)).status is Status.UNAVAILABLE
    await raw.until_closed()
    assert raw.goaway == 0
    await draining
    assert fake.cancelled == 1


async def test_google_s_client_sees_its_streams_end_with_OK(  # noqa: N802
    fake: FakeShim, at: tuple[GrpcServer, Path], foreign: tuple[ModuleType, ModuleType]
) -> None:
    messages, stubs = foreign
    async with grpc.aio.insecure_channel(f"unix:{at[1]}") as channel:
        client = stubs.ShimStub(channel)
        streams = [client.Events(messages.EventsRequest()) for _ in range(50)]
        for stream in streams:
            await stream.initial_metadata()
        pausing = client.Pause(messages.PauseRequest())
        await fake.until(lambda: fake.paused == 1)
        fake.publish(api.Event(pid=3))
        await at[0].drain(0.05, end_streams=lambda: fake.publish(None))

        for stream in streams:
            assert [event.pid async for event in stream] == [3]
            assert await stream.code() is grpc.StatusCode.OK
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await pausing
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_peer_that_does_not_read_holds_up_no_end(fake: FakeShim, at: tuple[GrpcServer, Path]) -> None:
    async with connect(at[1]) as asleep:
        asleep.request("Events")
        await fake.until(lambda: len(fake.subscribers) == 1)
        for _ in range(5_000):
            fake.publish(api.Event(id="x" * 1000))
        fake.publish(None)
        async with asyncio.timeout(20):
            await at[0].drain(0.05)
        assert fake.subscribers == []


async def test_a_call_that_does_not_heed_its_end_holds_up_nothing(
    fake: FakeShim, at: tuple[GrpcServer, Path], raw: RawClient
) -> None:
    over = asyncio.Event()

    async def stubborn(_: api.CreateRequest) -> None:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    fake.create_does = stubborn
    raw.request("Create")
    reading = asyncio.create_task(raw.until_closed())
    while not fake.received:
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await at[0].drain(0.05)
    await reading
    over.set()


async def test_good_bye_is_said_to_a_peer_only_when_it_has_read_what_was_sent_to_it(
    at: tuple[GrpcServer, Path], raw: RawClient
) -> None:
    await raw.answer(raw.request())
    (connection,) = at[0]._connections
    leaving = asyncio.create_task(connection.close_gracefully(20))
    events: list[h2.events.Event] = []
    while not any(isinstance(event, h2.events.PingReceived) for event in events):
        events = raw.http.receive_data(await raw.reader.read(65_536))
    assert not any(isinstance(event, h2.events.ConnectionTerminated) for event in events)
    answer_to_the_ping = raw.http.data_to_send()

    # What else it asks for meanwhile is answered, and nothing but that comes.
    assert (await raw.answer(raw.request())).status is Status.OK
    assert raw.goaway is None

    raw.writer.write(answer_to_the_ping)
    await raw.until_closed()
    assert raw.goaway == 0
    await leaving


async def test_an_idle_connection_is_told(at: tuple[GrpcServer, Path], raw: RawClient) -> None:
    await raw.read()
    reading = asyncio.create_task(raw.until_closed())
    await at[0].drain(5)
    await reading

    assert raw.goaway == 0
