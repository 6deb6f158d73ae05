"""A call that is cut off, at whatever point, took full effect or none, and can be made again.

The points are spread over the time that the call takes here: each cut comes a step later than the one
before, until the call comes through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from shimpy.api import (
    CreateRequest,
    DeleteRequest,
    EventType,
    ExecRequest,
    PauseRequest,
    ResumeRequest,
    ShimStub,
    StartRequest,
    State,
    StateRequest,
)
from tests.support import containers
from tests.support.leaks import children, eventually
from tests.support.lives import Life
from tests.support.residue import cgroups
from tests.support.rounds import rounds
from tests.support.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

# Seconds from one cut to the next.
STEP = rounds(4, 1) / 1000

Call = Callable[[float | None], Awaitable[object]]


def cut_by_client(call: Call) -> Callable[[float], Awaitable[bool]]:
    """The client's own task is cancelled: the stream is reset."""

    async def attempt(after: float) -> bool:
        task = asyncio.ensure_future(call(None))
        await asyncio.wait([task], timeout=after)
        if task.done():
            await task
            return True
        task.cancel()
        await asyncio.wait([task])
        return not task.cancelled() and task.exception() is None

    return attempt


def cut_by_deadline(call: Call) -> Callable[[float], Awaitable[bool]]:
    """The call's deadline passes."""

    async def attempt(after: float) -> bool:
        try:
            await call(after)
        except TimeoutError:
            return False
        except GRPCError as error:
            if error.status is not Status.DEADLINE_EXCEEDED:
                raise
            return False
        return True

    return attempt


CUTS = pytest.mark.parametrize("cut", [cut_by_client, cut_by_deadline], ids=["cancelled", "deadline"])


def points() -> Iterator[float]:
    """Later and later, without end: the call comes through at some time.

    On a busy machine, where it takes long, the steps grow: there are never many more than thirty.
    """
    after = 0.0
    while True:
        yield after
        after += max(STEP, after / 10)


@CUTS
async def test_a_create_that_is_cut_off_leaves_nothing_and_can_be_made_again(
    cut: Callable[[Call], Callable[[float], Awaitable[bool]]], live: Callable[..., Life]
) -> None:
    life = live("sleep", "1000")
    request = CreateRequest(id=life.id, bundle=life.bundle)
    attempt = cut(lambda timeout: life.shim.create(request, timeout=timeout))
    for after in points():
        try:
            if await attempt(after):
                break
        except GRPCError as error:
            # The one before could not be undone any more when the shim heard that it was cut off.
            assert error.status is Status.ALREADY_EXISTS, error
        state = await life.shim.state(StateRequest())
        assert state.id in ("", life.id)
        if state.id:
            await life.delete(state.init_pid)
    life.pid = (await life.shim.state(StateRequest())).init_pid
    assert await life.states() == {life.pid: State.CREATED}
    await life.delete()
    assert cgroups(life.id) == []


@CUTS
async def test_a_start_that_is_cut_off_has_started_the_container_or_can_be_made_again(
    cut: Callable[[Call], Callable[[float], Awaitable[bool]]], live: Callable[..., Life]
) -> None:
    for after in points():
        life = live("sleep", "1000")
        await life.create()
        attempt = cut(lambda timeout: life.shim.start(StartRequest(), timeout=timeout))  # noqa: B023
        through = await attempt(after)
        if await settled(life, "start") is State.CREATED:
            await life.start()
        assert await life.state() in (State.RUNNING, State.STOPPED)
        await life.delete()
        await life.exit_of(life.pid)
        told = life.recorder.of(life.pid)
        assert told.count(EventType.CREATE) == told.count(EventType.EXIT) == 1
        assert told[-1] == EventType.EXIT
        if through:
            break


async def settled(life: Life, call: str) -> State | None:
    """Returns the state once a call that was cut off is over: until then everything is refused."""
    while True:
        try:
            if call == "start":
                await life.shim.pause(PauseRequest())
                await life.shim.resume(ResumeRequest())
            else:
                await life.shim.start(StartRequest())
        except GRPCError as error:
            assert error.status is Status.FAILED_PRECONDITION, error
            if "just being" not in (error.message or ""):
                return await life.state()
            await asyncio.sleep(0)
        else:
            return await life.state()


@CUTS
async def test_a_pause_that_is_cut_off_has_paused_the_container_or_left_it_running(
    cut: Callable[[Call], Callable[[float], Awaitable[bool]]], live: Callable[..., Life]
) -> None:
    life = live("sh", "-c", "while :; do sleep 0.01; done")
    await life.create()
    await life.start()
    attempt = cut(lambda timeout: life.shim.pause(PauseRequest(), timeout=timeout))
    for after in points():
        through = await attempt(after)
        if await settled(life, "pause") is State.RUNNING:
            # It really runs: a process of it can be entered and ends.
            assert (await life.run("true")).status == 0
            assert not through
        else:
            await life.shim.resume(ResumeRequest())
        if through:
            break


@CUTS
async def test_a_resume_that_is_cut_off_has_resumed_the_container_or_left_it_paused(
    cut: Callable[[Call], Callable[[float], Awaitable[bool]]], live: Callable[..., Life]
) -> None:
    life = live("sleep", "1000")
    await life.create()
    await life.start()
    attempt = cut(lambda timeout: life.shim.resume(ResumeRequest(), timeout=timeout))
    for after in points():
        await life.shim.pause(PauseRequest())
        through = await attempt(after)
        if await settled(life, "resume") is State.PAUSED:
            assert not through
            await life.shim.resume(ResumeRequest())
        assert (await life.run("true")).status == 0
        if through:
            break


@CUTS
async def test_an_exec_that_is_cut_off_leaves_no_process_or_one_that_was_told_of(
    cut: Callable[[Call], Callable[[float], Awaitable[bool]]], live: Callable[..., Life]
) -> None:
    life = live("sleep", "1000")
    await life.create()
    await life.start()
    others = set(children())
    request = ExecRequest(args=["sh", "-c", "sleep 1000 & sleep 1000"])
    attempt = cut(lambda timeout: life.shim.exec(request, timeout=timeout))
    for after in points():
        through = await attempt(after)
        # On its way out it may still come to its end, and be told of after a State that was quicker.
        async with asyncio.timeout(30):
            while set(children()) > others:
                for pid in [pid for pid in await life.states() if pid != life.pid]:
                    await life.recorder.wait_for(EventType.EXEC_ADDED, pid)
                    await life.delete(pid)
                await asyncio.sleep(0.01)
        if through:
            break
    assert (await life.run("sh", "-c", "ps | grep -c '[s]leep 1000'")).stdout == "1\n"


@CUTS
async def test_a_delete_that_is_cut_off_can_be_made_again_or_is_done(
    cut: Callable[[Call], Callable[[float], Awaitable[bool]]], live: Callable[..., Life]
) -> None:
    for after in points():
        life = live("sleep", "1000")
        await life.create()
        await life.start()
        attempt = cut(lambda timeout: life.shim.delete(DeleteRequest(pid=life.pid), timeout=timeout))  # noqa: B023
        through = await attempt(after)
        try:
            assert await life.delete() == 137
        except GRPCError as error:
            assert error.status is Status.NOT_FOUND, error
        assert (await life.recorder.wait_for(EventType.EXIT, life.pid)).exit_status == 137
        assert cgroups(life.id) == []
        if through:
            break


async def disconnected(server: Server, call: Callable[[ShimStub], Awaitable[object]], after: float) -> None:
    """Makes a call on a connection of its own and closes that in the middle of it."""
    channel = server.channel()
    task = asyncio.ensure_future(call(ShimStub(channel)))
    await asyncio.wait([task], timeout=after)
    channel.close()
    await asyncio.wait([task])
    assert task.exception() is None or isinstance(task.exception(), StreamTerminatedError)


async def test_a_client_that_disconnects_in_a_create_leaves_none_or_a_whole_one(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    steady = server.stub()
    request = CreateRequest(id=new_id(), bundle=bundle("sleep", "1000"))
    for number in range(rounds(8, 60)):
        await disconnected(server, lambda stub: stub.create(request), number * STEP)
        pid = 0
        while not pid:
            try:
                pid = (await steady.create(request)).pid
            except GRPCError as error:
                assert error.status is Status.ALREADY_EXISTS, error
                pid = (await steady.state(StateRequest())).init_pid
        assert (await steady.delete(DeleteRequest(pid=pid))).exit_status == 137
    await eventually(lambda: not children(server.pid))
    assert cgroups(request.id) == []


async def test_a_client_that_disconnects_in_an_exec_leaves_none_or_one_that_is_listed(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    steady = server.stub()
    init = (await steady.create(CreateRequest(id=new_id(), bundle=bundle("sleep", "1000")))).pid
    await steady.start(StartRequest())
    for number in range(rounds(8, 60)):
        await disconnected(server, lambda stub: stub.exec(ExecRequest(args=["sleep", "1000"])), number * STEP)
    while set(children(server.pid)) != {init}:
        for process in (await steady.state(StateRequest())).processes:
            if process.pid != init:
                await steady.delete(DeleteRequest(pid=process.pid))
    await steady.delete(DeleteRequest(pid=init))


async def test_a_shutdown_in_the_middle_of_a_call_gives_it_an_answer_and_leaves_nothing(
    start_server: Callable[..., Server], bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    directory = bundle("true")
    for number in range(rounds(4, 40)):
        container_id = new_id()
        server = start_server()
        task = asyncio.ensure_future(server.stub().create(CreateRequest(id=container_id, bundle=directory)))
        await asyncio.wait([task], timeout=number * 2 * STEP)
        assert await server.terminated() == 0
        await asyncio.wait([task])
        error = task.exception()
        if error is None:
            # Answered before the end: the container is left, as one that runs would be.
            assert containers.left() == [container_id]
            containers.remove(container_id)
        else:
            assert isinstance(error, GRPCError | StreamTerminatedError | ConnectionError)
            assert cgroups(container_id) == []
