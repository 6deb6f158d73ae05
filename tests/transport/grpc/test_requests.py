"""What a client may send, and what it is told of the rest."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from grpclib.const import Status

from shimpy import api
from shimpy.transport.grpc.limits import MAX_HEADERS, MAX_MESSAGE
from tests.support.fake import FakeShim
from tests.support.rawhttp2 import RawClient, message

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", Status.INVALID_ARGUMENT, "without a request message"),
        (message()[:3], Status.INVALID_ARGUMENT, "ended within a message"),
        (message(b"abc", length=9), Status.INVALID_ARGUMENT, "ended within a message"),
        (message(length=9), Status.INVALID_ARGUMENT, "ended within a message"),
        (message(b"\x0a\x05abc"), Status.INVALID_ARGUMENT, "CreateRequest.id"),
        (message(b"\x08\x05"), Status.INVALID_ARGUMENT, "CreateRequest.id"),
        (message(b"\x0a\x01\xff"), Status.INVALID_ARGUMENT, "UTF-8"),
        (message(gzip.compress(b""), flag=1), Status.UNIMPLEMENTED, "compressed"),
        (message(flag=2), Status.INVALID_ARGUMENT, "flag"),
        (message(length=MAX_MESSAGE + 1), Status.RESOURCE_EXHAUSTED, str(MAX_MESSAGE)),
        (message(length=2**32 - 1), Status.RESOURCE_EXHAUSTED, str(MAX_MESSAGE)),
    ],
    ids=[
        "no message",
        "half a prefix",
        "half a message",
        "no more than a prefix",
        "malformed",
        "wrong type",
        "no text",
        "compressed",
        "flag 2",
        "over the limit",
        "4 GiB",
    ],
)
async def test_what_cannot_be_read_is_refused(
    fake: FakeShim, raw: RawClient, data: bytes, status: Status, words: str
) -> None:
    answer = await raw.answer(raw.request("Create", data))

    assert (answer.status, words in answer.message) == (status, True), answer.message
    assert fake.received == []
    assert (await raw.answer(raw.request())).status is Status.OK


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(raw: RawClient) -> None:
    stream = raw.start(raw.headers("Create"))
    raw.send(stream, message(length=300 * 1024 * 1024), end=False)

    assert (await raw.answer(stream)).status is Status.RESOURCE_EXHAUSTED


async def test_google_s_client_learns_that_a_message_is_too_large(
    path: Path, foreign: tuple[ModuleType, ModuleType]
) -> None:
    messages, stubs = foreign
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        client = stubs.ShimStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.Create(messages.CreateRequest(id="x" * 10_000_000))
        reply = await client.State(messages.StateRequest())

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reply.id == "fake"


async def test_google_s_client_learns_that_compression_is_not_offered(
    path: Path, foreign: tuple[ModuleType, ModuleType]
) -> None:
    messages, stubs = foreign
    async with grpc.aio.insecure_channel(f"unix:{path}", compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stubs.ShimStub(channel).Create(messages.CreateRequest(id="x" * 1000))

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "identity" in (error.value.details() or "")


async def test_the_largest_message_arrives(fake: FakeShim, raw: RawClient) -> None:
    # Three bytes for the tag, and the length in its varint.
    data = bytes(api.CreateRequest(stdin="x" * (MAX_MESSAGE - 5)))
    assert len(data) == MAX_MESSAGE
    stream = raw.start(raw.headers("Create"))
    await raw.send_all(stream, message(data))

    assert (await raw.answer(stream)).status is Status.OK
    assert len(fake.received[0].stdin) == MAX_MESSAGE - 5


async def test_a_message_in_many_pieces_arrives(fake: FakeShim, raw: RawClient) -> None:
    stream = raw.start(raw.headers("Create"))
    for byte in message(bytes(api.CreateRequest(id="piecemeal"))):
        raw.send(stream, bytes([byte]), end=False)
        raw.send(stream, b"", end=False)  # grpclib takes it for the end
    raw.send(stream, b"", end=True)

    assert (await raw.answer(stream)).status is Status.OK
    assert fake.received == [api.CreateRequest(id="piecemeal")]


async def test_a_second_message_is_ignored(fake: FakeShim, raw: RawClient) -> None:
    one = message(bytes(api.CreateRequest(id="one")))
    answer = await raw.answer(raw.request("Create", one + message(bytes(api.CreateRequest(id="two")))))

    assert answer.status is Status.OK
    assert [request.id for request in fake.received] == ["one"]


async def test_a_client_that_never_ends_its_side_gets_its_answer(raw: RawClient) -> None:
    answer = await raw.answer(raw.request(end=False))
    while answer.reset is None:
        await raw.read()

    assert (answer.status, answer.reset) == (Status.OK, 0)


@pytest.mark.parametrize(
    ("changes", "http", "status"),
    [
        ({":method": "GET"}, "405", Status.INVALID_ARGUMENT),
        ({":method": None}, "405", Status.INVALID_ARGUMENT),
        ({":path": "/nowhere"}, "200", Status.UNIMPLEMENTED),
        ({":path": "/containerd.shim.v1.Shim/Nothing"}, "200", Status.UNIMPLEMENTED),
        ({":path": None}, "200", Status.UNIMPLEMENTED),
        ({":path": "/\xff"}, "200", Status.UNIMPLEMENTED),
        ({"content-type": "text/html"}, "415", Status.INVALID_ARGUMENT),
        ({"content-type": "application/grpc+json"}, "415", Status.INVALID_ARGUMENT),
        ({"content-type": None}, "415", Status.INVALID_ARGUMENT),
        ({"te": None}, "200", Status.INVALID_ARGUMENT),
        ({"grpc-timeout": ""}, "200", Status.INVALID_ARGUMENT),
        ({"grpc-timeout": "5"}, "200", Status.INVALID_ARGUMENT),
        ({"grpc-timeout": "5x"}, "200", Status.INVALID_ARGUMENT),
        ({"grpc-timeout": "-5S"}, "200", Status.INVALID_ARGUMENT),
        ({"grpc-timeout": "\xb2S"}, "200", Status.INVALID_ARGUMENT),
        ({"grpc-timeout": "9" * 5000 + "H"}, "200", Status.INVALID_ARGUMENT),
        ({"grpc-timeout": "0S"}, "200", Status.DEADLINE_EXCEEDED),
        ({"grpc-timeout": "99999999H"}, "200", Status.OK),
        ({"grpc-timeout": "10S"}, "200", Status.OK),
        ({"content-type": "application/grpc+proto"}, "200", Status.OK),
        ({"content-type": "application/grpc; charset=utf-8"}, "200", Status.OK),
        ({"x-trace-bin": "A"}, "200", Status.OK),
        ({"x-trace-bin": "\xff", "x-trace": "\xff"}, "200", Status.OK),
        ({"x-long": "x" * MAX_HEADERS}, "200", Status.RESOURCE_EXHAUSTED),
    ],
)
async def test_request_headers(
    raw: RawClient, changes: dict[str, str | None], http: str, status: Status
) -> None:
    stream = raw.start(raw.headers(changes=changes))
    raw.send(stream, message())
    answer = await raw.answer(stream)

    assert (answer.headers[":status"], answer.status) == (http, status), answer.message
    assert (await raw.answer(raw.request())).status is Status.OK
