"""The Events stream as clients see it: who gets what, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from grpclib.client import Channel, Stream
from grpclib.config import Configuration
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from grpclib.testing import ChannelFor

from shimpy.api import CreateRequest, DeleteRequest, Event, EventsRequest, ExecRequest, ShimStub, StartRequest
from shimpy.services.shim_v1 import Shim
from shimpy.transport.grpc import GrpcServer
from tests.support.events import Recorder, record
from tests.support.kinds import CREATE, EXEC_ADDED, EXIT, START
from tests.support.leaks import eventually
from tests.support.lives import KILLED, Life
from tests.support.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

Prepare = Callable[..., Life]
SLEEP = ("sleep", "1000")
UNREAD = 4096
PATH = "/containerd.shim.v1.Shim/Events"


def publish(service: Shim, count: int) -> None:
    """Publishes as many events as it would take as many processes to cause."""
    for number in range(count):
        service._events.publish(Event(id="a" * 500, type=EXIT, pid=number + 1))


async def whole_life(life: Life) -> list[Event]:
    """Lives one, and returns what is to be told of it."""
    await life.create()
    await life.start()
    pid = await life.exec("sh", "-c", "exit 3")
    assert await life.exit_of(pid) == 3
    assert await life.delete() == KILLED
    return [
        Event(life.id, CREATE, life.pid),
        Event(life.id, START, life.pid),
        Event(life.id, EXEC_ADDED, pid),
        Event(life.id, EXIT, pid, 3),
        Event(life.id, EXIT, life.pid, KILLED),
    ]


async def test_headers_come_before_any_event(shim: ShimStub) -> None:
    """So a client knows from when on it misses nothing, in a service where nothing has happened yet."""
    async with shim.channel.request(PATH, Cardinality.UNARY_STREAM, EventsRequest, Event) as stream:
        await stream.send_message(EventsRequest(), end=True)
        async with asyncio.timeout(10):
            await stream.recv_initial_metadata()
        await stream.cancel()


async def test_a_late_first_subscriber_gets_what_it_missed(
    shim: ShimStub, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    container_id = new_id()
    pid = (await shim.create(CreateRequest(id=container_id, bundle=bundle(*SLEEP)))).pid
    await shim.start(StartRequest())
    expected = [Event(container_id, CREATE, pid), Event(container_id, START, pid)]
    async with record(shim) as recorder:
        await recorder.wait_for(START)
        assert recorder.seen == expected
        # The next is not the first.
        async with record(shim) as second:
            await shim.delete(DeleteRequest(pid=pid))
            expected.append(Event(container_id, EXIT, pid, KILLED))
            await recorder.wait_for(EXIT)
            await second.wait_for(EXIT)
            assert recorder.seen == expected
            assert second.seen == expected[-1:]


async def test_what_is_missed_between_two_subscribers_waits(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """A client that lost its connection, and with it its stream, finds what happened meanwhile."""
    async with Shim() as service, ChannelFor([service]) as channel:
        shim = ShimStub(channel)
        async with record(shim) as recorder:
            pid = (await shim.create(CreateRequest(id=new_id(), bundle=bundle(*SLEEP)))).pid
            await recorder.wait_for(CREATE)
        # The service takes note of its leave a moment later.
        await eventually(lambda: service._events._subscriptions == [])
        await shim.start(StartRequest())
        await shim.delete(DeleteRequest(pid=pid))
        async with record(shim) as recorder:
            await recorder.wait_for(EXIT)
            assert recorder.types == [START, EXIT]


async def test_what_nobody_listens_to_is_bounded() -> None:
    """The last 4,096 wait for who comes first."""
    async with Shim() as service, ChannelFor([service]) as channel:
        publish(service, UNREAD + 10)
        stream = ShimStub(channel).events(EventsRequest())
        got = [(await anext(stream)).pid for _ in range(UNREAD)]
        assert got == list(range(11, UNREAD + 11))
        service.close_events()
        assert [event async for event in stream] == []


async def test_five_subscribers_of_which_one_leaves(shim: ShimStub, live: Prepare) -> None:
    life = live(*SLEEP)
    recorders = [Recorder(shim) for _ in range(5)]
    for recorder in recorders:
        await recorder.subscribed()
    await life.create()
    await recorders[2].wait_for(CREATE)
    await recorders[2].close()
    await life.start()
    pid = await life.exec("sh", "-c", "exit 3")
    await life.exit_of(pid)
    await life.delete()
    await life.exit_of(life.pid)
    for number, recorder in enumerate(recorders):
        if number != 2:
            await recorder.wait_for(EXIT, life.pid)
            assert recorder.seen == life.recorder.seen
        await recorder.close()
    assert [event.type for event in life.recorder.seen] == [CREATE, START, EXEC_ADDED, EXIT, EXIT]


async def test_every_subscriber_sees_one_order(shim: ShimStub, live: Prepare) -> None:
    life = live(*SLEEP)
    recorders = [Recorder(shim) for _ in range(5)]
    for recorder in recorders:
        await recorder.subscribed()
    await life.create()
    await life.start()
    await asyncio.gather(*(life.exec("sh", "-c", f"exit {number}") for number in range(20)))
    await life.delete()
    for recorder in recorders:
        await recorder.wait_for(EXIT, life.pid)
        assert recorder.seen == recorders[0].seen
        assert len(recorder.seen) == 3 + 2 * 20
        await recorder.close()


async def test_one_that_never_reads(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    """It is told so at last, after what still fitted; who reads gets everything, and no call waits."""
    path = str(tmp_path / "socket")
    # What the client's windows hold has left the shim, read or not.
    small = Configuration(http2_connection_window_size=2**16 - 1, http2_stream_window_size=2**16 - 1)
    async with Shim() as service:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            server = GrpcServer([service])
            await server.start(listener.dup())
        async with (
            Channel(path=path) as channel,
            Channel(path=path, config=small) as lazy_channel,
            channel.request(PATH, Cardinality.UNARY_STREAM, EventsRequest, Event) as keen,
            lazy_channel.request(PATH, Cardinality.UNARY_STREAM, EventsRequest, Event) as lazy,
        ):
            for stream in (keen, lazy):
                await stream.send_message(EventsRequest(), end=True)
                await stream.recv_initial_metadata()
            seen: list[Event | None] = []
            for _ in range(50):
                publish(service, 100)
                seen += [await keen.recv_message() for _ in range(100)]
            assert [event and event.pid for event in seen] == list(range(1, 101)) * 50
            stub = ShimStub(channel)
            pid = (await stub.create(CreateRequest(id=new_id(), bundle=bundle(*SLEEP)))).pid
            await stub.delete(DeleteRequest(pid=pid))
            got: list[Event | None] = []
            with pytest.raises(GRPCError, match="unread") as caught:
                await _read(lazy, got)
            assert caught.value.status is Status.RESOURCE_EXHAUSTED
            assert UNREAD <= len(got) < len(seen)
            assert got == seen[: len(got)]
            await keen.cancel()
        await server.drain(1)


async def _read(stream: Stream[EventsRequest, Event], into: list[Event | None]) -> None:
    while (event := await stream.recv_message()) is not None:
        into.append(event)
    await stream.recv_trailing_metadata()  # with the status


async def test_shutdown_in_mid_stream(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """What was published is delivered, and every stream ends with OK."""
    stub = server.stub()
    recorders = [Recorder(server.stub()) for _ in range(3)]
    for recorder in recorders:
        await recorder.subscribed()
    container_id = new_id()
    pid = (await stub.create(CreateRequest(id=container_id, bundle=bundle(*SLEEP)))).pid
    await stub.start(StartRequest())
    execs = [(await stub.exec(ExecRequest(args=["true"]))).pid for _ in range(5)]
    await stub.delete(DeleteRequest(pid=pid))
    assert await server.terminated() == 0
    for recorder in recorders:
        assert await recorder.ended() is None
        assert recorder.seen[-1] == Event(container_id, EXIT, pid, KILLED)
        assert len(recorder.seen) == 3 + 2 * len(execs)


async def test_a_stream_of_a_service_that_ends(bundle: Callable[..., str], new_id: Callable[[], str]) -> None:
    """Also without a server around it."""
    service = Shim()
    async with service, ChannelFor([service]) as channel:
        stub = ShimStub(channel)
        async with record(stub) as recorder:
            pid = (await stub.create(CreateRequest(id=new_id(), bundle=bundle("true")))).pid
            await stub.start(StartRequest())
            await recorder.wait_for(EXIT)
            await stub.delete(DeleteRequest(pid=pid))
            service.close_events()
            assert await recorder.ended() is None
            assert recorder.types == [CREATE, START, EXIT]
            with pytest.raises(GRPCError) as caught:
                async for _ in stub.events(EventsRequest()):
                    pass
            assert caught.value.status is Status.UNAVAILABLE


async def test_subscribers_that_come_and_go_leave_nothing(shim: ShimStub, live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    for _ in range(50):
        recorder = Recorder(shim)
        await recorder.subscribed()
        await recorder.close()
    await life.delete()
    await life.exit_of(life.pid)
    assert life.recorder.types == [CREATE, EXIT]


async def test_events_of_two_containers_one_after_the_other(live: Prepare) -> None:
    first, second = live(*SLEEP), live(*SLEEP)
    expected = await whole_life(first) + await whole_life(second)
    await second.recorder.wait_for(EXIT, second.pid)
    assert second.recorder.seen == expected


async def test_a_storm_of_exits_while_the_loop_stands_still(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """Signals merge; no EXIT is lost by it."""
    stub = server.stub()
    async with record(stub) as recorder:
        pid = (await stub.create(CreateRequest(id=new_id(), bundle=bundle(*SLEEP)))).pid
        await stub.start(StartRequest())
        execs = [(await stub.exec(ExecRequest(args=list(SLEEP)))).pid for _ in range(20)]
        server.process.send_signal(signal.SIGSTOP)
        for each in execs:
            os.kill(each, signal.SIGKILL)
        server.process.send_signal(signal.SIGCONT)
        for each in execs:
            assert (await recorder.wait_for(EXIT, each)).exit_status == KILLED
        await stub.delete(DeleteRequest(pid=pid))
        await recorder.wait_for(EXIT, pid)
        assert len(recorder.seen) == 3 + 2 * 20
