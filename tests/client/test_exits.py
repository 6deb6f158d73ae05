"""What the client takes for the exit of a process that it started, whatever else the events tell."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self, cast

import pytest

from shimpy.client.exits import Exit, ExitWatch
from shimpy.client.model import ContainerState, Event, EventType
from shimpy.client.shim_calls import ShimCalls
from shimpy.errors import ResourceExhaustedError

pytestmark = pytest.mark.anyio

PID = 7


class Events:
    """A subscription to what a test says; an exception ends it."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[Event | Exception] = asyncio.Queue()

    async def tell(self, *events: Event | Exception) -> None:
        """Returns once they have been read."""
        for event in events:
            self._told.put_nowait(event)
        while not self._told.empty():
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self._told.get()
        if isinstance(event, Exception):
            raise event
        return event


class Calls:
    """A shim without processes, whose events are one subscription after the other."""

    def __init__(self) -> None:
        self.subscriptions: list[Events] = []

    def events(self) -> Events:
        self.subscriptions.append(Events())
        return self.subscriptions[-1]

    async def state(self, **_options: Any) -> ContainerState:
        return ContainerState("", "", 0, ())


class Start:
    """A call that starts a process and is answered when the test says so."""

    def __init__(self) -> None:
        self.made = asyncio.Event()
        self.answered = asyncio.Event()

    async def __call__(self) -> int:
        self.made.set()
        await self.answered.wait()
        return PID


def added(pid: int = PID) -> Event:
    return Event("c", EventType.EXEC_ADDED, pid)


def exited(status: int, pid: int = PID) -> Event:
    return Event("c", EventType.EXIT, pid, status)


async def test_an_exit_that_comes_before_the_reply_is_the_process_s() -> None:
    calls, start = Calls(), Start()
    watch = ExitWatch(cast("ShimCalls", calls))
    starting = asyncio.ensure_future(watch.start(start))
    await start.made.wait()
    await calls.subscriptions[0].tell(added(), exited(3))
    start.answered.set()

    pid, ended = await starting
    assert (pid, await ended) == (PID, Exit(3))
    await watch.aclose()


async def test_the_exit_of_an_earlier_process_with_that_pid_is_not() -> None:
    calls, other, start = Calls(), Start(), Start()
    watch = ExitWatch(cast("ShimCalls", calls))
    # While a call is under way that could be the one, every exit is kept.
    under_way = asyncio.ensure_future(watch.start(other))
    await other.made.wait()
    await calls.subscriptions[0].tell(added(), exited(3))
    start.answered.set()

    _, ended = await watch.start(start)
    assert not ended.done()
    await calls.subscriptions[0].tell(added(), exited(4))
    assert await ended == Exit(4)
    under_way.cancel()
    await watch.aclose()


async def test_an_exit_that_was_lost_before_the_reply_is_asked_for() -> None:
    calls, start = Calls(), Start()
    watch = ExitWatch(cast("ShimCalls", calls))
    starting = asyncio.ensure_future(watch.start(start))
    await start.made.wait()
    await calls.subscriptions[0].tell(ResourceExhaustedError("too many unread"))
    while len(calls.subscriptions) < 2:
        await asyncio.sleep(0)
    await calls.subscriptions[1].tell(exited(0, pid=8))  # so it follows these by now
    start.answered.set()

    _, ended = await starting
    async with asyncio.timeout(20):
        assert await ended == Exit(None)
    await watch.aclose()


async def test_only_what_was_there_when_the_oom_killer_struck_has_it_told() -> None:
    calls, start = Calls(), Start()
    watch = ExitWatch(cast("ShimCalls", calls))
    start.answered.set()
    _, first = await watch.start(start)
    out_of_memory = Event("c", EventType.OOM, 1)
    await calls.subscriptions[0].tell(out_of_memory, added(), out_of_memory, exited(137))
    assert await first == Exit(137, oom=True)

    _, second = await watch.start(start)
    await calls.subscriptions[0].tell(added(), exited(0))
    assert await second == Exit(0, oom=False)
    await watch.aclose()
