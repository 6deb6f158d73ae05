"""What a peer may do to the server: each limit, and that the others do not feel it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.protocol import Stream
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from shimpy import api
from shimpy.transport import Server, connection, limits

from .support.fake import FakeShim, serving
from .support.rawhttp2 import RawClient, connect, message
from .support.rounds import rounds

pytestmark = pytest.mark.anyio

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

RESETS = rounds(2_000, 5_000)


@pytest.fixture
def fake() -> FakeShim:
    return FakeShim()


@pytest.fixture
async def at(fake: FakeShim) -> AsyncIterator[tuple[Server, Path]]:
    async with serving(fake) as running:
        yield running


@pytest.fixture
def path(at: tuple[Server, Path]) -> Path:
    return at[1]


@pytest.fixture
async def bystander(path: Path) -> AsyncIterator[RawClient]:
    """Another client, which is to notice nothing."""
    async with connect(path) as client:
        assert (await client.answer(client.request())).status is Status.OK
        yield client
        assert (await client.answer(client.request())).status is Status.OK


@pytest.fixture(autouse=True)
def no_errors_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No flood is an error of ours."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def streams_in_memory() -> int:
    gc.collect()
    return sum(isinstance(each, Stream) for each in gc.get_objects())


async def flood(client: RawClient, data: bytes, times: int) -> None:
    """Sends the same bytes over and over, until the server closes."""
    reading = asyncio.create_task(client.until_closed())
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            if client.closed:
                break
            client.writer.write(data)
            await client.writer.drain()
            await asyncio.sleep(0)
    client.finish()
    await reading


def frame(kind: type[Frame], stream: int = 0, flags: tuple[str, ...] = (), **fields: object) -> bytes:
    made = kind(stream)
    for flag in flags:
        made.flags.add(flag)
    for name, value in fields.items():
        setattr(made, name, value)
    return made.serialize()


class TestResets:
    @pytest.mark.parametrize("rpc", ["State", "Pause", "Events", "Nothing"])
    async def test_streams_that_were_reset_leave_nothing(
        self, fake: FakeShim, path: Path, bystander: RawClient, rpc: str
    ) -> None:
        before = streams_in_memory(), len(asyncio.all_tasks())
        async with connect(path) as client:
            for _ in range(RESETS // 100):
                for _ in range(100):
                    # The two together: the call is cancelled before its task has made a step.
                    stream = client.start(client.headers(rpc))
                    client.http.reset_stream(stream)
                client.flush()
                await asyncio.sleep(0)
            assert (await client.answer(client.request())).status is Status.OK
            after = streams_in_memory(), len(asyncio.all_tasks())

        assert after == before

    async def test_calls_that_were_reset_under_way_leave_nothing(
        self, fake: FakeShim, path: Path, bystander: RawClient
    ) -> None:
        before = streams_in_memory(), len(asyncio.all_tasks())
        async with connect(path) as client:
            for _ in range(rounds(3, 10)):
                fake.paused = fake.cancelled = 0
                streams = [client.request(rpc) for _ in range(200) for rpc in ("Pause", "Events")]
                await fake.until(lambda: len(fake.subscribers) == fake.paused == 200)
                for stream in streams:
                    client.http.reset_stream(stream)
                client.flush()
                await fake.until(lambda: not fake.subscribers and fake.cancelled == 200)
            assert (await client.answer(client.request())).status is Status.OK
            after = streams_in_memory(), len(asyncio.all_tasks())

        assert after == before

    async def test_a_client_that_only_resets_is_sent_away(self, path: Path, bystander: RawClient) -> None:
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
            assert client.last_stream < 2 * 20_000

    async def test_a_client_may_cancel_all_of_its_calls(self, fake: FakeShim, path: Path) -> None:
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


class TestFloods:
    @pytest.mark.parametrize("data", FLOODS.values(), ids=FLOODS)
    async def test_a_flood_ends_its_connection_only(
        self, path: Path, bystander: RawClient, data: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with connect(path) as client:
            client.start(client.headers("Pause"))
            await client.read()
            await flood(client, data * 1_000, 100)

            assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM
        assert "flood" in caplog.text

    async def test_a_peer_that_does_not_read_its_answers_is_not_read(
        self, at: tuple[Server, Path], bystander: RawClient
    ) -> None:
        server, path = at
        before = set(server._connections)
        async with connect(path) as client:
            await client.ignore_stream_limit()
            (mine,) = server._connections - before
            transport = cast("asyncio.Transport", client.writer.transport)
            transport.pause_reading()
            # Each answer says something else, so that header compression does not make it short.
            for number in range(4_000):
                client.start(client.headers(changes={":path": f"/{number:0250}"}), end=True)
                if number % 100 == 0:
                    await asyncio.sleep(0)
                if transport.get_write_buffer_size():
                    break
            else:
                pytest.fail("it was read to the end")
            unsent = mine._transport.get_write_buffer_size()
            assert unsent < 1024 * 1024
            transport.resume_reading()
            assert (await client.answer(client.request())).status is Status.OK

    async def test_an_honest_storm_of_calls_is_no_flood(self, path: Path) -> None:
        channel = Channel(path=str(path))
        stub = api.ShimStub(channel)
        for _ in range(rounds(40, 400)):
            await asyncio.gather(*(stub.state(api.StateRequest()) for _ in range(50)))
        channel.close()

    async def test_an_honest_stream_of_events_is_no_flood(self, fake: FakeShim, path: Path) -> None:
        channel = Channel(path=str(path))
        number = rounds(5_000, 100_000)

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


class TestGarbage:
    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
            b"\0" * 5_000,
            b"\xff" * 5_000,
            PREFACE + b"\xff" * 100,
            PREFACE + PREFACE,
            PREFACE + b"\0\x40\1\0\0\0\0\0\1",
        ],
        ids=[
            "HTTP/1.1",
            "TLS",
            "zeros",
            "ones",
            "preface and ones",
            "two prefaces",
            "a huge frame announced",
        ],
    )
    async def test_what_is_not_HTTP_2_is_closed(  # noqa: N802
        self, path: Path, bystander: RawClient, data: bytes
    ) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()

    async def test_random_bytes_harm_nobody(self, path: Path, bystander: RawClient) -> None:
        dice = random.Random(4)
        kinds = [bytes([kind]) for kind in range(12)]
        for _ in range(rounds(100, 3_000)):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(PREFACE + frame(SettingsFrame))
            for _ in range(dice.randrange(8)):
                body = dice.randbytes(dice.randrange(40))
                head = struct.pack(">I", len(body))[1:] + dice.choice(kinds) + dice.randbytes(1)
                writer.write(head + struct.pack(">I", dice.choice([0, 1, 1, 3, 2**31 - 1, 2])) + body)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read(-1)
            writer.close()

    BREACHES: dict[str, Callable[[], bytes]] = {  # noqa: RUF012
        "data before headers": lambda: frame(DataFrame, 1, data=b"x"),
        "an even stream": lambda: frame(HeadersFrame, 2, ("END_HEADERS",), data=b""),
        "broken header compression": lambda: frame(HeadersFrame, 1, ("END_HEADERS",), data=b"\xff" * 9),
        "a frame that is too large": lambda: struct.pack(">I", 20_000)[1:] + b"\0\0\0\0\0\1" + b"x" * 20_000,
        "a window of nothing": lambda: frame(WindowUpdateFrame, window_increment=1)[:-4] + b"\0\0\0\0",
        "a window too large": lambda: frame(WindowUpdateFrame, window_increment=2**31 - 1) * 2,
        "settings that are not": lambda: frame(SettingsFrame, settings={4: 2**32 - 1}),
        "a push": lambda: frame(PushPromiseFrame, 1, ("END_HEADERS",), promised_stream_id=2, data=b""),
        "a naked continuation": lambda: frame(ContinuationFrame, 1, ("END_HEADERS",), data=b""),
        "a reset of nothing": lambda: frame(RstStreamFrame, 77),
        "a dependency on itself": lambda: frame(PriorityFrame, 1, depends_on=1, stream_weight=1),
        "a good-bye": lambda: frame(GoAwayFrame, last_stream_id=0, error_code=0),
    }

    @pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES)
    async def test_a_breach_of_the_protocol_ends_its_connection_only(
        self, fake: FakeShim, path: Path, bystander: RawClient, breach: Callable[[], bytes]
    ) -> None:
        async with connect(path) as client:
            await client.read()
            client.writer.write(breach())
            client.finish()
            await client.until_closed()

    async def test_continuations_without_end_are_not_collected(
        self, path: Path, bystander: RawClient
    ) -> None:
        async with connect(path) as client:
            client.writer.write(frame(HeadersFrame, 1, data=b""))
            await flood(client, frame(ContinuationFrame, 1, data=b"\0" * 10), 1_000)

            assert client.goaway == ErrorCodes.PROTOCOL_ERROR

    async def test_headers_past_all_measure_end_their_connection(
        self, path: Path, bystander: RawClient
    ) -> None:
        async with connect(path) as client:
            client.start(client.headers(more=[(f"x-{n}", "x" * 1_000) for n in range(100)]))
            await client.until_closed()

            assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM


class TestTime:
    async def test_a_peer_that_says_nothing_is_closed(
        self, path: Path, bystander: RawClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "PREFACE_TIMEOUT", 0.05)
        async with connect(path, begin=False) as silent, connect(path, begin=False) as halting:
            halting.writer.write(PREFACE[:10])

            await silent.until_closed()
            await halting.until_closed()

    async def test_a_peer_that_has_greeted_may_be_silent(
        self, path: Path, bystander: RawClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "PREFACE_TIMEOUT", 0.05)
        async with connect(path) as greeted, connect(path, begin=False) as silent:
            await silent.until_closed()
            assert (await greeted.answer(greeted.request())).status is Status.OK

    async def test_one_that_sends_byte_by_byte_keeps_nobody(self, fake: FakeShim, path: Path) -> None:
        async with contextlib.AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(connect(path)) for _ in range(50)]
            streams = [client.start(client.headers("Create")) for client in slow]
            quick = await stack.enter_async_context(connect(path))
            for byte in message(bytes(api.CreateRequest(id="slowly"))):
                for client, stream in zip(slow, streams, strict=True):
                    client.send(stream, bytes([byte]), end=False)
                assert (await quick.answer(quick.request())).status is Status.OK
            for client, stream in zip(slow, streams, strict=True):
                assert (await client.answer(stream)).status is Status.OK
            assert len(fake.received) == 50

    async def test_requests_made_to_be_slow_to_decode_hold_up_nobody(
        self, path: Path, bystander: RawClient
    ) -> None:
        heavy = message(b"\x78\x00" * 80_000)
        async with connect(path) as client:

            async def burden() -> None:
                for _ in range(rounds(10, 100)):
                    stream = client.start(client.headers("State"))
                    await client.send_all(stream, heavy)
                    assert (await client.answer(stream)).status is Status.INVALID_ARGUMENT

            burdening = asyncio.create_task(burden())
            waits = []
            while not burdening.done():
                start = time.monotonic()
                assert (await bystander.answer(bystander.request())).status is Status.OK
                waits.append(time.monotonic() - start)
            await burdening
        assert sorted(waits)[len(waits) // 2] < 0.25


class TestRoom:
    async def test_a_hundred_clients_are_served(self, path: Path) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(path)) for _ in range(100)]
            streams = [client.request() for client in clients]
            for client, stream in zip(clients, streams, strict=True):
                assert (await client.answer(stream)).status is Status.OK

    async def test_one_connection_too_many_is_told_so_and_there_is_room_again(
        self, at: tuple[Server, Path]
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
        self, path: Path, bystander: RawClient
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

    async def test_connections_leave_nothing(self, at: tuple[Server, Path], bystander: RawClient) -> None:
        server, path = at
        before = len(server._connections), len(os.listdir("/proc/self/fd")), streams_in_memory()
        for _ in range(rounds(100, 2_000)):
            async with connect(path) as client:
                client.request("Pause")
                assert (await client.answer(client.request())).status is Status.OK
        while len(server._connections) > before[0] or streams_in_memory() > before[2]:
            await asyncio.sleep(0)

        assert (len(server._connections), len(os.listdir("/proc/self/fd")), streams_in_memory()) == before

    async def test_a_huge_window_does_not_make_the_server_hold_everything(
        self, fake: FakeShim, at: tuple[Server, Path], bystander: RawClient
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
