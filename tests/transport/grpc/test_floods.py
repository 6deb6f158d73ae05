"""Clients that ask for too much: it costs them their connection and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.protocol import Stream
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, PingFrame, PriorityFrame, SettingsFrame, WindowUpdateFrame

from shimpy import api
from shimpy.transport.grpc import GrpcServer, limits
from tests.support.fake import FakeShim
from tests.support.leaks import descriptors, eventually, opened_since
from tests.support.rawhttp2 import RawClient, connect, flood, frame, message
from tests.support.rounds import FULL, rounds

pytestmark = pytest.mark.anyio

RESETS = rounds(1_000, 5_000)


@pytest.fixture(autouse=True)
def no_errors_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No flood is an error of ours."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Makes a tenth of a flood enough, however slow the machine is; returns what a peer may spend at once.

    In `make stress` it is the whole flood, and time gives back what it does.
    """
    if not FULL:
        monkeypatch.setattr(limits.TokenBucket, "BURST", limits.TokenBucket.BURST / 10)
        monkeypatch.setattr(limits.TokenBucket, "PER_SECOND", 0.0)
    return limits.TokenBucket.BURST


def in_memory() -> Counter[str]:
    """Returns how many streams and tasks there are."""
    gc.collect()
    streams = sum(isinstance(each, Stream) for each in gc.get_objects())
    return Counter(streams=streams, tasks=len(asyncio.all_tasks()))


@pytest.mark.parametrize("rpc", ["State", "Pause", "Events", "Nothing"])
async def test_streams_that_were_reset_leave_nothing(
    fake: FakeShim, path: Path, bystander: RawClient, rpc: str
) -> None:
    before = in_memory()
    async with connect(path) as client:
        for _ in range(RESETS // 100):
            for _ in range(100):
                # The two together: the call is cancelled before its task has made a step.
                stream = client.start(client.headers(rpc))
                client.http.reset_stream(stream)
            client.flush()
            await asyncio.sleep(0)
        assert (await client.answer(client.request())).status is Status.OK
        await eventually(lambda: in_memory() <= before)


async def test_calls_that_were_reset_under_way_leave_nothing(
    fake: FakeShim, path: Path, bystander: RawClient
) -> None:
    before = in_memory()
    for _ in range(rounds(3, 10)):
        # Each starts with a full bucket.
        async with connect(path) as client:
            fake.paused = fake.cancelled = 0
            streams = [client.request(rpc) for _ in range(200) for rpc in ("Pause", "Events")]
            await fake.until(lambda: len(fake.subscribers) == fake.paused == 200)
            for stream in streams:
                client.http.reset_stream(stream)
            client.flush()
            await fake.until(lambda: not fake.subscribers and fake.cancelled == 200)
            assert (await client.answer(client.request())).status is Status.OK
            await eventually(lambda: in_memory() <= before)


async def test_a_client_that_only_resets_is_sent_away(
    impatience: float, path: Path, bystander: RawClient
) -> None:
    async with connect(path) as client:
        reading = asyncio.create_task(client.until_closed())
        with contextlib.suppress(ConnectionError):
            while client.goaway is None and not client.closed:
                for _ in range(100):
                    client.http.reset_stream(client.start())
                client.flush()
                await client.writer.drain()
                await asyncio.sleep(0)
        await reading

        assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM
        assert client.last_stream < 2 * 2 * impatience


async def test_a_client_may_cancel_all_of_its_calls(fake: FakeShim, path: Path) -> None:
    async with connect(path) as client:
        await client.ignore_stream_limit()
        for _ in range(rounds(1, 2)):
            streams = [client.request("Events") for _ in range(limits.MAX_STREAMS)]
            await fake.until(lambda: len(fake.subscribers) == limits.MAX_STREAMS)
            for stream in streams:
                client.http.reset_stream(stream)
            client.flush()
            await fake.until(lambda: not fake.subscribers)
        assert (await client.answer(client.request())).status is Status.OK


FLOODS: dict[str, bytes] = {
    "pings": frame(PingFrame, opaque_data=b"12345678"),
    "answers to no ping": frame(PingFrame, flags=("ACK",), opaque_data=b"12345678"),
    "settings": frame(SettingsFrame, settings={4: 65_535}),
    "priorities": frame(PriorityFrame, 1, depends_on=0, stream_weight=1),
    "unknown frames": b"\x00\x00\x00\xfa\x00\x00\x00\x00\x00",
    "window updates": frame(WindowUpdateFrame, window_increment=1),
    "empty data": frame(DataFrame, 1, data=b""),
    "single bytes": frame(DataFrame, 1, data=b"\0"),
}


@pytest.mark.parametrize("data", FLOODS.values(), ids=FLOODS)
async def test_a_flood_ends_its_connection_only(
    impatience: float, path: Path, bystander: RawClient, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(path) as client:
        client.start(client.headers("Pause"))
        await client.read()
        await flood(client, data * 1_000, 100)

        assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM
    assert "flood" in caplog.text


async def test_a_peer_that_does_not_read_its_answers_is_not_read(
    at: tuple[GrpcServer, Path], bystander: RawClient
) -> None:
    server, path = at
    before = set(server._connections)
    async with connect(path) as client:
        await client.ignore_stream_limit()
        (mine,) = server._connections - before
        transport = cast("asyncio.Transport", client.writer.transport)
        # As little as can be on its way, so that few calls are enough.
        for end in (mine._transport, transport):
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)
        mine._transport.set_write_buffer_limits(4096)
        transport.pause_reading()
        # Each answer says something else, so that header compression does not make it short.
        for number in range(500):
            client.start(client.headers(changes={":path": f"/{number:0250}"}), end=True)
        while mine._transport.is_reading():
            assert transport.get_write_buffer_size(), "it was read to the end"
            await asyncio.sleep(0)
        transport.resume_reading()
        assert (await client.answer(client.request())).status is Status.OK


async def test_an_honest_storm_of_calls_is_no_flood(impatience: float, path: Path) -> None:
    channel = Channel(path=str(path))
    stub = api.ShimStub(channel)
    for _ in range(rounds(10, 400)):
        await asyncio.gather(*(stub.state(api.StateRequest()) for _ in range(50)))
    channel.close()


async def test_a_call_that_is_answered_pays_for_the_frames_that_came_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits.TokenBucket, "BURST", 100.0)
    monkeypatch.setattr(limits.TokenBucket, "PER_SECOND", 0.0)
    async with connect(path) as client:
        for _ in range(100):
            client.writer.write(FLOODS["window updates"] * 15)
            assert (await client.answer(client.request())).status is Status.OK


async def test_an_honest_stream_of_events_is_no_flood(impatience: float, fake: FakeShim, path: Path) -> None:
    channel = Channel(path=str(path))
    number = rounds(2_000, 100_000)

    async def follow() -> int:
        return len([event async for event in api.ShimStub(channel).events(api.EventsRequest())])

    following = asyncio.create_task(follow())
    await fake.until(lambda: len(fake.subscribers) == 1)
    for n in range(number):
        fake.publish(api.Event(pid=n))
        if n % 1_000 == 0:
            await asyncio.sleep(0)
    fake.publish(None)
    assert await following == number
    channel.close()


async def test_a_hundred_clients_are_served(path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(path)) for _ in range(100)]
        streams = [client.request() for client in clients]
        for client, stream in zip(clients, streams, strict=True):
            assert (await client.answer(stream)).status is Status.OK


async def test_one_connection_too_many_is_refused_until_there_is_room(
    at: tuple[GrpcServer, Path],
) -> None:
    server, path = at
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(path)) for _ in range(limits.MAX_CONNECTIONS)]
        assert (await clients[-1].answer(clients[-1].request())).status is Status.OK
        async with connect(path) as refused:
            await refused.until_closed()
            assert refused.goaway == ErrorCodes.ENHANCE_YOUR_CALM
        clients[0].writer.close()
        while len(server._connections) >= limits.MAX_CONNECTIONS:
            await asyncio.sleep(0)
        async with connect(path) as welcome:
            assert (await welcome.answer(welcome.request())).status is Status.OK


async def test_requests_that_are_never_finished_do_not_fill_the_memory(
    path: Path, bystander: RawClient
) -> None:
    most = message(b"x" * 3_000_000, length=4_000_000)
    async with connect(path) as client:
        streams = []
        while not any(answer.ended for answer in client.answers.values()):
            stream = client.start(client.headers("Create"))
            streams.append(stream)
            await client.send_all(stream, most, end=False)
            assert len(streams) < 20
        (over,) = [answer for answer in client.answers.values() if answer.ended]

        assert over.status is Status.RESOURCE_EXHAUSTED
        assert len(streams) * 3_000_000 > limits.MAX_HELD
        client.http.reset_stream(streams[0])
        assert (await client.answer(client.request())).status is Status.OK


async def test_connections_leave_nothing(at: tuple[GrpcServer, Path], bystander: RawClient) -> None:
    server, path = at
    connections, held, opened = len(server._connections), in_memory(), descriptors()
    for _ in range(rounds(100, 2_000)):
        async with connect(path) as client:
            client.request("Pause")
            assert (await client.answer(client.request())).status is Status.OK

    await eventually(lambda: len(server._connections) == connections)
    await eventually(lambda: in_memory() <= held and not opened_since(opened))


async def test_a_huge_window_does_not_make_the_server_hold_everything(
    fake: FakeShim, at: tuple[GrpcServer, Path], bystander: RawClient
) -> None:
    server, path = at
    before = set(server._connections)
    async with connect(path) as client:
        client.http.increment_flow_control_window(2**31 - 1 - 65_535)
        client.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        client.flush()
        await client.answer(client.request())
        (mine,) = server._connections - before
        cast("asyncio.Transport", client.writer.transport).pause_reading()
        for _ in range(50):
            client.request("Events")
        await fake.until(lambda: len(fake.subscribers) == 50)
        for _ in range(1_000):
            fake.publish(api.Event(id="x" * 1_000))
        assert (await bystander.answer(bystander.request())).status is Status.OK

        assert mine._transport.get_write_buffer_size() < 1024 * 1024  # of 50 MB
