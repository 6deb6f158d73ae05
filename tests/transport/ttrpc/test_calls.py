"""What the server answers."""

from __future__ import annotations

import asyncio
import logging

import pytest

from shimpy.errors import FailedPreconditionError, NotFoundError, ShimError
from shimpy.transport.ttrpc import MAX_PAYLOAD, Client
from shimpy.transport.ttrpc.connection import MAX_CALLS, MAX_HELD
from shimpy.transport.ttrpc.envelope import Request, encode_request
from tests.support.leaks import eventually
from tests.support.rawttrpc import DATA, REQUEST, RESPONSE, SERVICE, Handlers, Peer, frame, request

pytestmark = pytest.mark.anyio


async def test_a_call_is_answered_on_its_stream(peer: Peer) -> None:
    peer.send(request(41, argument="web"))

    assert await peer.answer() == (41, "OK", "web")


async def test_answers_come_in_the_order_in_which_they_are_ready(peer: Peer, handlers: Handlers) -> None:
    peer.send(request(1, "Hold", "slow") + request(3, argument="quick"))
    assert await peer.answer() == (3, "OK", "quick")
    handlers.release.set()

    assert await peer.answer() == (1, "OK", "slow")


async def test_a_frame_may_come_byte_by_byte(peer: Peer) -> None:
    for byte in request(1):
        peer.send(bytes([byte]))
        await peer.writer.drain()
        await asyncio.sleep(0)

    assert await peer.answer() == (1, "OK", "x")


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        (b"", frame(2, REQUEST), "stream 2: those of clients have odd numbers"),
        (b"", frame(0, REQUEST), "stream 0: those of clients have odd numbers"),
        (b"", frame(2, DATA), "stream 2: those of clients have odd numbers"),
        (request(5), request(5), "stream 5: numbers of streams have to rise"),
        (request(5), request(3), "stream 3: numbers of streams have to rise"),
        (
            b"",
            frame(1, REQUEST, b"\xff"),
            "Request: malformed message: a number does not end, or is too long",
        ),
        (b"", frame(1, DATA, b"data"), "stream 1: no call is under way on it"),
        (request(1), frame(1, DATA, b"data"), "stream 1: no call is under way on it"),
    ],
    ids=[
        "even",
        "zero",
        "even data",
        "used",
        "lower",
        "malformed",
        "data on no stream",
        "data after the end",
    ],
)
async def test_what_breaks_the_protocol_is_an_invalid_argument(
    peer: Peer, first: bytes, then: bytes, message: str
) -> None:
    if first:
        peer.send(first)
        assert (await peer.answer())[1] == "OK"
    peer.send(then)

    assert await peer.answer() == (int.from_bytes(then[4:8], "big"), "INVALID_ARGUMENT", message)
    peer.send(request(2**32 - 1))
    assert (await peer.answer())[1] == "OK"


async def test_data_for_a_call_that_takes_none_ends_it(peer: Peer, handlers: Handlers) -> None:
    peer.send(request(1, "Hold", "web"))
    await eventually(lambda: handlers.begun)
    peer.send(frame(1, DATA, b"more") + frame(1, DATA, b"and more"))

    assert await peer.answer() == (1, "INVALID_ARGUMENT", f"stream 1: {SERVICE}/Hold takes one message")
    assert handlers.cancelled == ["web"]
    peer.send(request(3))
    assert await peer.answer() == (3, "OK", "x")


@pytest.mark.parametrize("frame_type", [0, RESPONSE, 4, 255])
async def test_other_types_of_frames_are_ignored(peer: Peer, frame_type: int) -> None:
    peer.send(frame(1, frame_type, b"whatever") + request(1))

    assert await peer.answer() == (1, "OK", "x")


@pytest.mark.parametrize(
    ("service", "method", "message"),
    [
        ("no.Service", "Echo", "there is no service 'no.Service'"),
        (SERVICE, "echo", f"{SERVICE} has no method 'echo'"),
        ("", "", "there is no service ''"),
    ],
)
async def test_what_is_not_served_is_unimplemented(
    peer: Peer, service: str, method: str, message: str
) -> None:
    peer.send(request(1, method, service=service))

    assert await peer.answer() == (1, "UNIMPLEMENTED", message)


async def test_a_request_that_is_not_what_the_method_takes(peer: Peer) -> None:
    peer.send(frame(1, REQUEST, encode_request(Request(SERVICE, "Echo", b"\x08\x01"))))

    assert await peer.answer() == (1, "INVALID_ARGUMENT", "StateRequest.id: a number is not a string")


async def test_a_message_that_is_too_long_is_read_past(peer: Peer) -> None:
    peer.send(frame(1, REQUEST, bytes(MAX_PAYLOAD + 1)) + request(1))

    assert await peer.answer() == (
        1,
        "RESOURCE_EXHAUSTED",
        "a message of 4194305 bytes; 4194304 are the most that one may have",
    )
    assert await peer.answer() == (1, "OK", "x")


async def test_the_longest_message_is_taken_and_the_longest_answer_sent(client: Client) -> None:
    from shimpy.api.task import StateRequest, StateResponse

    longest = MAX_PAYLOAD - 100
    reply = await client.call(SERVICE, "Echo", StateRequest(id="x" * longest), StateResponse)

    assert len(reply.id) == longest


async def test_an_answer_that_is_too_long_is_not_sent(peer: Peer) -> None:
    peer.send(request(1, "Long", str(MAX_PAYLOAD)))

    assert await peer.answer() == (
        1,
        "RESOURCE_EXHAUSTED",
        "the answer has 4194314 bytes; 4194304 are the most that one may have",
    )


@pytest.mark.parametrize("error", [cls("why") for cls in ShimError.__subclasses__()], ids=repr)
async def test_an_error_is_told_with_its_code(peer: Peer, handlers: Handlers, error: ShimError) -> None:
    handlers.error = error
    peer.send(request(1, "Fail"))

    assert await peer.answer() == (1, error.code, "why")


async def test_a_subclass_of_an_error_has_its_code(peer: Peer, handlers: Handlers) -> None:
    class NoSuchContainerError(NotFoundError):
        pass

    handlers.error = NoSuchContainerError("web")
    peer.send(request(1, "Fail"))

    assert await peer.answer() == (1, "NOT_FOUND", "web")


@pytest.mark.parametrize("method", ["Fail", "Nothing"])
async def test_a_mistake_of_a_handler_is_logged_and_not_told(
    peer: Peer, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    peer.send(request(1, method))

    assert await peer.answer() == (1, "INTERNAL", "shimpy failed; its log has the details")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == f"{SERVICE}/{method} failed"
    assert record.exc_info is not None


async def test_calls_are_in_the_log_for_debugging(
    peer: Peer, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "shimpy.rpc")
    handlers.error = FailedPreconditionError("no")
    peer.send(request(1, "Fail"))
    await peer.answer()

    (record,) = caplog.records
    assert record.getMessage().startswith(f"{SERVICE}/Fail: FAILED_PRECONDITION in ")


async def test_metadata_reaches_the_handler(peer: Peer) -> None:
    pairs = (("containerd-namespace-ttrpc", "k8s.io"), ("a", ""), ("a", "b"))
    peer.send(frame(1, REQUEST, encode_request(Request(SERVICE, "Metadata", b"", 0, pairs))))
    assert await peer.answer() == (1, "OK", "containerd-namespace-ttrpc=k8s.io a= a=b")
    peer.send(request(3, "Metadata"))

    assert await peer.answer() == (3, "OK", "")


async def test_calls_under_way_on_one_connection_are_bounded(peer: Peer, handlers: Handlers) -> None:
    for number in range(MAX_CALLS + 1):
        peer.send(request(2 * number + 1, "Hold"))

    assert await peer.answer() == (
        2 * MAX_CALLS + 1,
        "RESOURCE_EXHAUSTED",
        "4096 calls are under way on one connection",
    )
    handlers.release.set()
    for _ in range(MAX_CALLS):
        assert (await peer.answer())[1] == "OK"
    peer.send(request(2**31 + 1))
    assert (await peer.answer())[1] == "OK"


async def test_bytes_of_the_requests_under_way_are_bounded(peer: Peer, handlers: Handlers) -> None:
    piece = MAX_HELD // 8
    for number in range(8):
        peer.send(request(2 * number + 1, "Hold", "x" * piece))

    assert await peer.answer() == (
        15,
        "RESOURCE_EXHAUSTED",
        "more than 16777216 bytes of requests under way on one connection",
    )
    handlers.release.set()
    for _ in range(7):
        assert (await peer.answer())[1] == "OK"
    peer.send(request(17, "Echo", "x" * piece))
    assert (await peer.answer())[1] == "OK"
