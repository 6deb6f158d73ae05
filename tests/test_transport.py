"""What every call can count on, whatever service is behind: statuses, strict requests, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from betterproto.lib.google.protobuf import Empty
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.testing import ChannelFor

from shimpy import api
from shimpy.errors import ShimError
from shimpy.transport import Server
from shimpy.transport.limits import MAX_HEADERS, MAX_MESSAGE, MAX_STATUS_MESSAGE, MAX_STREAMS

from .support.fake import FakeShim, serving
from .support.rawhttp2 import RawClient, connect, message

pytestmark = pytest.mark.anyio


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
async def stub(path: Path) -> AsyncIterator[api.ShimStub]:
    channel = Channel(path=str(path))
    yield api.ShimStub(channel)
    channel.close()


@pytest.fixture
async def raw(path: Path) -> AsyncIterator[RawClient]:
    async with connect(path) as client:
        yield client


@pytest.fixture(params=["socket", "in process"])
async def either(request: pytest.FixtureRequest, fake: FakeShim) -> AsyncIterator[api.ShimStub]:
    """A client of the fake on shimpy's own server, and on grpclib's."""
    if request.param == "socket":
        async with serving(fake) as (_, path):
            channel = Channel(path=str(path))
            yield api.ShimStub(channel)
            channel.close()
    else:
        async with ChannelFor([fake]) as channel:
            yield api.ShimStub(channel)


async def failure(call: Any) -> GRPCError:
    with pytest.raises(GRPCError) as error:
        await call
    return error.value


def raises(fake: FakeShim, error: BaseException) -> None:
    """Has the next Create fail."""

    async def do(_: api.CreateRequest) -> None:
        raise error

    fake.create_does = do


class TestStatuses:
    @pytest.mark.parametrize("kind", ShimError.__subclasses__())
    async def test_an_error_of_ours_carries_its_status_and_message(
        self, fake: FakeShim, either: api.ShimStub, kind: type[ShimError]
    ) -> None:
        raises(fake, kind("bundle: /ünwell is not there"))

        error = await failure(either.create(api.CreateRequest()))

        assert (error.status, error.message) == (kind.status, "bundle: /ünwell is not there")

    async def test_any_other_error_is_INTERNAL_and_its_traceback_goes_to_the_log(  # noqa: N802
        self, fake: FakeShim, either: api.ShimStub, caplog: pytest.LogCaptureFixture
    ) -> None:
        raises(fake, ValueError("secret"))

        error = await failure(either.create(api.CreateRequest()))

        assert error.status is Status.INTERNAL
        assert "secret" not in (error.message or "")
        assert "secret" in caplog.text

    @pytest.mark.parametrize("inner", [TimeoutError(), ConnectionResetError(), AssertionError(), EOFError()])
    async def test_errors_that_grpclib_takes_for_its_own_are_INTERNAL(  # noqa: N802
        self, fake: FakeShim, either: api.ShimStub, inner: Exception
    ) -> None:
        raises(fake, inner)

        assert (await failure(either.create(api.CreateRequest(), timeout=30))).status is Status.INTERNAL

    async def test_a_status_UNKNOWN_is_not_passed_on(  # noqa: N802
        self, fake: FakeShim, either: api.ShimStub
    ) -> None:
        raises(fake, GRPCError(Status.UNKNOWN, "what"))

        error = await failure(either.create(api.CreateRequest()))

        assert (error.status, error.message) == (Status.INTERNAL, "what")

    async def test_a_call_that_cancels_itself_does_not_leave_its_client_waiting(
        self, fake: FakeShim, either: api.ShimStub
    ) -> None:
        raises(fake, asyncio.CancelledError())

        assert (await failure(either.create(api.CreateRequest()))).status is Status.INTERNAL
        assert (await either.state(api.StateRequest())).id == "fake"

    @pytest.mark.parametrize("character", ["x", "ü", "\N{GRINNING FACE}", "\n", "%"])
    async def test_a_message_is_bounded_as_it_is_encoded(
        self, fake: FakeShim, path: Path, foreign: tuple[ModuleType, ModuleType], character: str
    ) -> None:
        messages, stubs = foreign
        raises(fake, ShimError(character * 100_000))
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stubs.ShimStub(channel).Create(messages.CreateRequest())

        details = error.value.details() or ""
        assert error.value.code() is grpc.StatusCode.INTERNAL
        assert details.startswith(character * (MAX_STATUS_MESSAGE // 12 - 1))
        assert details.endswith("...")

    async def test_a_message_that_is_no_text_arrives(self, fake: FakeShim, either: api.ShimStub) -> None:
        raises(fake, ShimError("file \udcff\ud800"))

        assert (await failure(either.create(api.CreateRequest()))).message == "file \\udcff\\ud800"

    async def test_a_reply_that_cannot_be_encoded_is_INTERNAL(  # noqa: N802
        self, fake: FakeShim, either: api.ShimStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def nonsense(_: api.StateRequest) -> Any:
            return Empty()

        monkeypatch.setattr(fake, "state", nonsense)

        assert (await failure(either.state(api.StateRequest()))).status is Status.INTERNAL

    async def test_a_method_that_is_not_written_is_UNIMPLEMENTED(self, either: api.ShimStub) -> None:  # noqa: N802
        assert (await failure(either.resume(api.ResumeRequest()))).status is Status.UNIMPLEMENTED


class TestRequests:
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
        self, fake: FakeShim, raw: RawClient, data: bytes, status: Status, words: str
    ) -> None:
        answer = await raw.answer(raw.request("Create", data))

        assert (answer.status, words in answer.message) == (status, True), answer.message
        assert fake.received == []
        assert (await raw.answer(raw.request())).status is Status.OK

    async def test_a_message_over_the_limit_is_refused_before_it_is_sent(self, raw: RawClient) -> None:
        stream = raw.start(raw.headers("Create"))
        raw.send(stream, message(length=300 * 1024 * 1024), end=False)

        assert (await raw.answer(stream)).status is Status.RESOURCE_EXHAUSTED

    async def test_google_s_client_learns_that_a_message_is_too_large(
        self, path: Path, foreign: tuple[ModuleType, ModuleType]
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
        self, path: Path, foreign: tuple[ModuleType, ModuleType]
    ) -> None:
        messages, stubs = foreign
        async with grpc.aio.insecure_channel(f"unix:{path}", compression=grpc.Compression.Gzip) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stubs.ShimStub(channel).Create(messages.CreateRequest(id="x" * 1000))

        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "identity" in (error.value.details() or "")

    async def test_the_largest_message_arrives(self, fake: FakeShim, raw: RawClient) -> None:
        # Three bytes for the tag, and the length in its varint.
        data = bytes(api.CreateRequest(stdin="x" * (MAX_MESSAGE - 5)))
        assert len(data) == MAX_MESSAGE
        stream = raw.start(raw.headers("Create"))
        await raw.send_all(stream, message(data))

        assert (await raw.answer(stream)).status is Status.OK
        assert len(fake.received[0].stdin) == MAX_MESSAGE - 5

    async def test_a_message_in_many_pieces_arrives(self, fake: FakeShim, raw: RawClient) -> None:
        stream = raw.start(raw.headers("Create"))
        for byte in message(bytes(api.CreateRequest(id="piecemeal"))):
            raw.send(stream, bytes([byte]), end=False)
            raw.send(stream, b"", end=False)  # grpclib takes it for the end
        raw.send(stream, b"", end=True)

        assert (await raw.answer(stream)).status is Status.OK
        assert fake.received == [api.CreateRequest(id="piecemeal")]

    async def test_a_second_message_is_ignored(self, fake: FakeShim, raw: RawClient) -> None:
        one = message(bytes(api.CreateRequest(id="one")))
        answer = await raw.answer(raw.request("Create", one + message(bytes(api.CreateRequest(id="two")))))

        assert answer.status is Status.OK
        assert [request.id for request in fake.received] == ["one"]

    async def test_a_client_that_never_ends_its_side_gets_its_answer(self, raw: RawClient) -> None:
        answer = await raw.answer(raw.request(end=False))

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
        self, raw: RawClient, changes: dict[str, str | None], http: str, status: Status
    ) -> None:
        stream = raw.start(raw.headers(changes=changes))
        raw.send(stream, message())
        answer = await raw.answer(stream)

        assert (answer.headers[":status"], answer.status) == (http, status), answer.message
        assert (await raw.answer(raw.request())).status is Status.OK


class TestDeadlinesAndDepartures:
    async def test_a_deadline_that_passes_cancels_the_call(self, fake: FakeShim, raw: RawClient) -> None:
        stream = raw.start(raw.headers("Pause", {"grpc-timeout": "20m"}))
        raw.send(stream, message())

        assert (await raw.answer(stream)).status is Status.DEADLINE_EXCEEDED
        assert fake.cancelled == 1

    async def test_a_call_that_comes_to_its_answer_as_its_deadline_passes_is_OK(  # noqa: N802
        self, fake: FakeShim, raw: RawClient
    ) -> None:
        async def too_late(_: api.CreateRequest) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        fake.create_does = too_late
        stream = raw.start(raw.headers("Create", {"grpc-timeout": "20m"}))
        raw.send(stream, message())

        assert (await raw.answer(stream)).status is Status.OK

    async def test_what_is_being_undone_is_not_broken_off_again(
        self, fake: FakeShim, at: tuple[Server, Path], raw: RawClient
    ) -> None:
        undoing, undone = asyncio.Event(), asyncio.Event()
        steps = []

        async def undo(_: api.CreateRequest) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                undoing.set()
                await undone.wait()
                steps.append("undone")

        fake.create_does = undo
        stream = raw.start(raw.headers("Create", {"grpc-timeout": "20m"}))
        raw.send(stream, message())
        await undoing.wait()
        raw.http.reset_stream(stream)
        raw.flush()
        assert (await raw.answer(raw.request())).status is Status.OK  # the reset has been seen
        raw.writer.close()
        draining = asyncio.create_task(at[0].drain(0))
        await asyncio.sleep(0.05)
        assert steps == []
        undone.set()
        await draining
        assert steps == ["undone"]

    async def test_a_client_that_cancels_a_call_cancels_it_here(
        self, fake: FakeShim, stub: api.ShimStub
    ) -> None:
        calls = [asyncio.create_task(stub.pause(api.PauseRequest())) for _ in range(10)]
        await fake.until(lambda: fake.paused == 10)
        for call in calls:
            call.cancel()

        await fake.until(lambda: fake.cancelled == 10)
        assert (await stub.state(api.StateRequest())).id == "fake"

    async def test_a_client_that_dies_cancels_its_calls_and_no_others(
        self, fake: FakeShim, path: Path, stub: api.ShimStub
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


class TestStreams:
    async def test_headers_go_out_once_subscribed_and_before_any_event(
        self, fake: FakeShim, raw: RawClient
    ) -> None:
        stream = raw.request("Events")
        while not raw.answers[stream].headers:
            await raw.read()

        assert len(fake.subscribers) == 1
        fake.publish(api.Event(pid=5))
        fake.publish(None)
        answer = await raw.answer(stream)
        assert (answer.data, answer.status) == (message(bytes(api.Event(pid=5))), Status.OK)

    async def test_a_stream_that_fails_ends_with_its_status(
        self, fake: FakeShim, either: api.ShimStub
    ) -> None:
        events = either.events(api.EventsRequest())
        first = asyncio.ensure_future(anext(events))
        await fake.until(lambda: len(fake.subscribers) == 1)
        fake.publish(api.Event(pid=5))
        assert (await first).pid == 5

        fake.publish(ShimError("gone wrong"))
        error = await failure(anext(events))
        assert (error.status, error.message) == (Status.INTERNAL, "gone wrong")

    async def test_a_subscriber_that_leaves_is_forgotten(self, fake: FakeShim, path: Path) -> None:
        async with connect(path) as client:
            streams = [client.request("Events") for _ in range(3)]
            await fake.until(lambda: len(fake.subscribers) == 3)
            client.http.reset_stream(streams[0])
            client.flush()
            await fake.until(lambda: len(fake.subscribers) == 2)
        await fake.until(lambda: not fake.subscribers)

    async def test_a_malformed_request_gets_no_stream(self, fake: FakeShim, raw: RawClient) -> None:
        answer = await raw.answer(raw.request("Events", message(b"\xff")))

        assert answer.status is Status.INVALID_ARGUMENT
        assert fake.subscribed == 0

    async def test_a_subscriber_that_does_not_read_delays_nobody(self, fake: FakeShim, path: Path) -> None:
        async with connect(path) as asleep, connect(path) as awake:
            asleep.request("Events")
            await fake.until(lambda: len(fake.subscribers) == 1)
            stream = awake.request("Events")
            await fake.until(lambda: len(fake.subscribers) == 2)
            event = api.Event(id="x" * 1000)
            for _ in range(5_000):
                fake.publish(event)
            fake.publish(None)

            answer = await awake.answer(stream)
            assert answer.status is Status.OK
            assert answer.data.count(event.id.encode()) == 5_000

    async def test_a_unary_call_is_answered_beside_a_thousand_streams(
        self, fake: FakeShim, raw: RawClient
    ) -> None:
        streams = [raw.request("Events") for _ in range(1_000)]
        await fake.until(lambda: len(fake.subscribers) == 1_000)

        assert (await raw.answer(raw.request())).status is Status.OK
        fake.publish(api.Event(pid=9))
        fake.publish(None)
        for stream in streams:
            answer = await raw.answer(stream)
            assert (answer.data, answer.status) == (message(bytes(api.Event(pid=9))), Status.OK)

    async def test_google_s_client_has_as_many_streams_as_are_offered(
        self, fake: FakeShim, path: Path, foreign: tuple[ModuleType, ModuleType]
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

    async def test_one_stream_too_many_is_refused_and_the_others_live(
        self, fake: FakeShim, raw: RawClient
    ) -> None:
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


class TestTheEnd:
    async def test_calls_under_way_get_their_answer_and_streams_end_with_OK(  # noqa: N802
        self, fake: FakeShim, at: tuple[Server, Path], stub: api.ShimStub
    ) -> None:
        server, _ = at
        go = asyncio.Event()

        async def wait(_: api.CreateRequest) -> None:
            await go.wait()
            fake.publish(api.Event(pid=7))

        fake.create_does = wait
        creating = asyncio.create_task(stub.create(api.CreateRequest()))
        events: list[int] = []

        async def follow() -> None:
            async for event in stub.events(api.EventsRequest()):
                events.append(event.pid)  # noqa: PERF401 - a failure shall show what has come

        following = asyncio.create_task(follow())
        await fake.until(lambda: bool(fake.received and fake.subscribers))

        draining = asyncio.create_task(server.drain(5, end_streams=lambda: fake.publish(None)))
        await asyncio.sleep(0)
        refused = await failure(stub.state(api.StateRequest()))
        assert refused.status is Status.UNAVAILABLE
        go.set()
        assert (await creating).pid == 7
        await following
        assert events == [7]
        await draining

    async def test_what_does_not_end_is_ended_with_UNAVAILABLE(  # noqa: N802
        self, fake: FakeShim, at: tuple[Server, Path], raw: RawClient
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
        self, fake: FakeShim, at: tuple[Server, Path], foreign: tuple[ModuleType, ModuleType]
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

    async def test_a_peer_that_does_not_read_holds_up_no_end(
        self, fake: FakeShim, at: tuple[Server, Path]
    ) -> None:
        async with connect(at[1]) as asleep:
            asleep.request("Events")
            await fake.until(lambda: len(fake.subscribers) == 1)
            for _ in range(5_000):
                fake.publish(api.Event(id="x" * 1000))
            fake.publish(None)
            async with asyncio.timeout(3):
                await at[0].drain(0.05)
            assert fake.subscribers == []

    async def test_a_call_that_does_not_heed_its_end_holds_up_nothing(
        self, fake: FakeShim, at: tuple[Server, Path], raw: RawClient
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
        async with asyncio.timeout(3):
            await at[0].drain(0.05)
        await reading
        over.set()

    async def test_an_idle_connection_is_told(self, at: tuple[Server, Path], raw: RawClient) -> None:
        await raw.read()
        reading = asyncio.create_task(raw.until_closed())
        await at[0].drain(5)
        await reading

        assert raw.goaway == 0


async def test_each_call_is_a_line_at_debug(
    fake: FakeShim, stub: api.ShimStub, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "shimpy.rpc"):
        await stub.state(api.StateRequest())
        raises(fake, ShimError("no"))
        await failure(stub.create(api.CreateRequest()))
        await failure(stub.resume(api.ResumeRequest()))

    lines = [(record.__dict__["method"], record.__dict__["status"]) for record in caplog.records]
    assert lines == [
        ("/containerd.shim.v1.Shim/State", "OK"),
        ("/containerd.shim.v1.Shim/Create", "INTERNAL"),
        ("/containerd.shim.v1.Shim/Resume", "UNIMPLEMENTED"),
    ]
