"""Bytes that are no HTTP/2, and peers that take their time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grpclib.const import Status
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from shimpy import api
from shimpy.transport.grpc.limits import PREFACE_TIMEOUT
from tests.support.clock import leap
from tests.support.fake import FakeShim
from tests.support.rawhttp2 import PREFACE, RawClient, connect, flood, frame, message
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_errors_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No flood is an error of ours."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


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
    path: Path, bystander: RawClient, data: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    with contextlib.suppress(ConnectionError):
        await reader.read(-1)
    writer.close()


async def test_random_bytes_harm_nobody(path: Path, bystander: RawClient) -> None:
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


BREACHES: dict[str, Callable[[], bytes]] = {
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
    fake: FakeShim, path: Path, bystander: RawClient, breach: Callable[[], bytes]
) -> None:
    async with connect(path) as client:
        await client.read()
        client.writer.write(breach())
        client.finish()
        await client.until_closed()


async def test_continuations_without_end_are_not_collected(path: Path, bystander: RawClient) -> None:
    async with connect(path) as client:
        client.writer.write(frame(HeadersFrame, 1, data=b""))
        await flood(client, frame(ContinuationFrame, 1, data=b"\0" * 10), 1_000)

        assert client.goaway == ErrorCodes.PROTOCOL_ERROR


async def test_headers_past_all_measure_end_their_connection(path: Path, bystander: RawClient) -> None:
    async with connect(path) as client:
        client.start(client.headers(more=[(f"x-{n}", "x" * 1_000) for n in range(100)]))
        await client.until_closed()

        assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM


async def greeted_by_server(client: RawClient) -> None:
    """Returns once the server has sent its settings: by then it counts the seconds."""
    await client.reader.readexactly(9)  # the head of the frame; an answer would end the silence


async def test_a_peer_that_says_nothing_is_closed(path: Path, bystander: RawClient) -> None:
    async with connect(path, begin=False) as silent, connect(path, begin=False) as halting:
        halting.writer.write(PREFACE[:10])
        for client in (silent, halting):
            await greeted_by_server(client)
        leap(PREFACE_TIMEOUT)
        for client in (silent, halting):
            with contextlib.suppress(ConnectionError):
                await client.reader.read()


async def test_a_frame_that_is_too_large_is_refused_when_it_is_announced(
    raw: RawClient, bystander: RawClient
) -> None:
    assert (await raw.answer(raw.request())).status is Status.OK
    raw.writer.write((2**24 - 1).to_bytes(3) + b"\x00\x00" + (1).to_bytes(4))
    async with asyncio.timeout(20):
        await raw.until_closed()

    assert raw.goaway == ErrorCodes.FRAME_SIZE_ERROR


async def test_a_peer_that_has_greeted_may_be_silent(path: Path, bystander: RawClient) -> None:
    async with connect(path) as greeted, connect(path, begin=False) as silent:
        assert (await greeted.answer(greeted.request())).status is Status.OK
        await greeted_by_server(silent)
        leap(PREFACE_TIMEOUT)
        await silent.reader.read()
        assert (await greeted.answer(greeted.request())).status is Status.OK


async def test_one_that_sends_byte_by_byte_keeps_nobody(fake: FakeShim, path: Path) -> None:
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


async def test_requests_made_to_be_slow_to_decode_hold_up_nobody(path: Path, bystander: RawClient) -> None:
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
            start = time.thread_time()
            assert (await bystander.answer(bystander.request())).status is Status.OK
            waits.append(time.thread_time() - start)
        await burdening
    assert sorted(waits)[len(waits) // 2] < 0.25
