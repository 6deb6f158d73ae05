"""The client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shimpy.api.task import StateRequest, StateResponse
from shimpy.errors import (
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    ShimError,
    UnavailableError,
)
from shimpy.transport.ttrpc import MAX_PAYLOAD, Client, TtrpcServer, connect
from shimpy.transport.ttrpc.envelope import Response, decode_request, encode_response
from tests.support.clock import leap
from tests.support.leaks import eventually
from tests.support.rawttrpc import DATA, RESPONSE, SERVICE, Handlers, Peer, frame

pytestmark = pytest.mark.anyio


async def call(client: Client, method: str = "Echo", argument: str = "x", **options: object) -> str:
    """Returns what the service answers."""
    request = StateRequest(id=argument)
    return (await client.call(SERVICE, method, request, StateResponse, **options)).id  # type: ignore[arg-type]  # the test's own


@pytest.fixture
async def pair(path: Path) -> AsyncIterator[tuple[Client, Peer]]:
    """A client, and the server's end of its connection."""
    accepted: asyncio.Queue[Peer] = asyncio.Queue()
    server = await asyncio.start_unix_server(lambda *ends: accepted.put_nowait(Peer(*ends)), path)
    client = await connect(str(path))
    peer = await accepted.get()
    yield client, peer
    client.close()
    peer.writer.transport.abort()
    server.close()


async def test_calls_at_once(client: Client) -> None:
    assert await asyncio.gather(*(call(client, argument=str(number)) for number in range(100))) == [
        str(number) for number in range(100)
    ]


async def test_an_error_is_raised_as_its_class(client: Client, handlers: Handlers) -> None:
    handlers.error = NotFoundError("no such container: web")

    with pytest.raises(NotFoundError, match=r"^no such container: web$"):
        await call(client, "Fail")


@pytest.mark.parametrize("code", [2, 10, 99])
async def test_a_status_that_has_no_class_is_an_internal_error(pair: tuple[Client, Peer], code: int) -> None:
    client, peer = pair
    calling = asyncio.create_task(call(client))
    stream, _, _ = await peer.frame()
    peer.send(frame(stream, RESPONSE, encode_response(Response(code=code, message="why"))))

    with pytest.raises(InternalError, match=r"^why$"):
        await calling


async def test_metadata_goes_along(client: Client) -> None:
    assert await call(client, "Metadata", metadata=[("a", "b"), ("a", "c")]) == "a=b a=c"


async def test_streams_are_odd_and_rise(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    calls = [asyncio.create_task(call(client, argument=str(number))) for number in range(3)]
    received = [await peer.frame() for _ in calls]

    assert [(stream, decode_request(payload).payload) for stream, _, payload in received] == [
        (2 * number + 1, bytes(StateRequest(id=str(number)))) for number in range(3)
    ]
    for each in calls:
        each.cancel()


async def test_the_server_is_told_the_timeout(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    calls = [asyncio.create_task(call(client, timeout=timeout)) for timeout in (None, 90)]
    sent = [decode_request((await peer.frame())[2]).timeout for _ in calls]

    assert sent == [0, 90 * 10**9]
    for each in calls:
        each.cancel()


@pytest.mark.parametrize("timeout", [1e300, float("inf")])
async def test_any_long_timeout_is_sent(pair: tuple[Client, Peer], timeout: float) -> None:
    client, peer = pair
    calling = asyncio.create_task(call(client, timeout=timeout))

    assert decode_request((await peer.frame())[2]).timeout == 9 * 10**18
    calling.cancel()


async def test_a_timeout_that_passes(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    calling = asyncio.create_task(call(client, timeout=3600))
    stream, _, _ = await peer.frame()
    leap(3601)

    with pytest.raises(DeadlineExceededError, match=r"^test\.Service/Echo: no reply within 3600 s$"):
        await calling
    peer.send(frame(stream, RESPONSE, encode_response(Response(b""))))
    await _works(client, peer)


async def test_a_call_that_is_cancelled(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    calling = asyncio.create_task(call(client))
    stream, _, _ = await peer.frame()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    peer.send(frame(stream, RESPONSE, encode_response(Response(b""))))

    await _works(client, peer)


async def test_a_request_that_is_too_long_is_not_sent(client: Client) -> None:
    with pytest.raises(ResourceExhaustedError, match=r"the request has \d+ bytes; 4194304 are the most"):
        await call(client, argument="x" * MAX_PAYLOAD)

    assert await call(client) == "x"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (lambda stream: frame(stream, RESPONSE, b"\xff"), InternalError),
        (lambda stream: frame(stream, RESPONSE, encode_response(Response(b"\x08\x01"))), InternalError),
        (lambda stream: frame(stream, DATA, b"data"), InternalError),
        (lambda stream: frame(stream, RESPONSE, bytes(MAX_PAYLOAD + 1)), ResourceExhaustedError),
    ],
    ids=["no envelope", "no reply", "data", "too long"],
)
async def test_a_reply_that_is_not_one(
    pair: tuple[Client, Peer], reply: Callable[[int], bytes], error: type[ShimError]
) -> None:
    client, peer = pair
    calling = asyncio.create_task(call(client))
    stream, _, _ = await peer.frame()
    peer.send(frame(2, RESPONSE) + frame(77, RESPONSE, b"\xff") + reply(stream))

    with pytest.raises(error):
        await calling
    await _works(client, peer)


async def test_a_reply_that_comes_twice(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    calling = asyncio.create_task(call(client))
    stream, _, payload = await peer.frame()
    reply = frame(stream, RESPONSE, encode_response(Response(decode_request(payload).payload)))
    peer.send(reply + reply)

    assert await calling == "x"
    await _works(client, peer)


async def test_calls_end_with_the_connection(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    calls = [asyncio.create_task(call(client, timeout=3600)) for _ in range(3)]
    for _ in calls:
        await peer.frame()
    peer.writer.transport.abort()

    for each in calls:
        with pytest.raises(UnavailableError, match="the connection ended"):
            await each
    with pytest.raises(UnavailableError, match="the connection ended"):
        await call(client)
    assert client.closed


async def test_closing_ends_the_calls(client: Client, handlers: Handlers, server: TtrpcServer) -> None:
    calling = asyncio.create_task(call(client, "Hold"))
    await eventually(lambda: handlers.begun)
    client.close()
    client.close()

    with pytest.raises(UnavailableError, match="the connection was closed"):
        await calling
    with pytest.raises(UnavailableError, match="the connection was closed"):
        await call(client)
    await client.wait_closed()
    await eventually(lambda: server.connected == 0)
    assert handlers.cancelled == ["x"]


async def test_a_server_that_does_not_read_is_waited_for(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that both reads and writes
    size = 3 << 20
    calls = [asyncio.create_task(call(client, argument="x" * size)) for _ in range(10)]
    await eventually(lambda: client.transport.get_write_buffer_size() > 0)
    for _ in range(10):
        await asyncio.sleep(0)

    assert client.transport.get_write_buffer_size() <= size + 100
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
    for _ in calls:
        stream, _, payload = await peer.frame()
        peer.send(frame(stream, RESPONSE, encode_response(Response(decode_request(payload).payload))))
        assert client.transport.get_write_buffer_size() <= size + 100_000
    assert {len(reply) for reply in await asyncio.gather(*calls)} == {size}


async def test_a_call_that_waits_for_the_server_to_read_ends_with_the_connection(
    pair: tuple[Client, Peer],
) -> None:
    client, peer = pair
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that both reads and writes
    calls = [asyncio.create_task(call(client, argument="x" * (3 << 20))) for _ in range(3)]
    await eventually(lambda: client.transport.get_write_buffer_size() > 0)
    client.close()

    for each in calls:
        with pytest.raises(UnavailableError):
            await each


async def test_numbers_run_out_some_day(client: Client) -> None:
    client._next_stream = 2**32 - 1
    assert await call(client) == "x"

    with pytest.raises(UnavailableError, match="connect again"):
        await call(client)


async def test_nobody_listens(path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"socket: No such file or directory$"):
        await connect(str(path))


async def test_a_server_at_which_too_many_wait(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(path))
        with pytest.raises(UnavailableError, match="Resource temporarily unavailable"):
            await connect(str(path))


async def _works(client: Client, peer: Peer) -> None:
    """Makes a call by hand."""
    calling = asyncio.create_task(call(client))
    stream, _, payload = await peer.frame()
    peer.send(frame(stream, RESPONSE, encode_response(Response(decode_request(payload).payload))))
    assert await calling == "x"
