"""Start: whether it took effect is asked of the process, and of the runtime, not of how its command ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from shimpy.core.container.process import Process
from shimpy.core.container.start import Start
from shimpy.core.runtime import Runtime
from shimpy.errors import InternalError, UnavailableError

pytestmark = pytest.mark.anyio


class Init:
    """An init of which a test says when it runs the container's own program."""

    def __init__(self) -> None:
        self.has_execed = False


@pytest.fixture
def init() -> Init:
    return Init()


class Commands:
    """A runtime whose start does what a test says, and whose state is a word or an error."""

    def __init__(self, start: Callable[[], Awaitable[None]], status: str | None) -> None:
        self.starts = 0
        self.asked = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self._start = start
        self._status = status

    async def start(self, container_id: str) -> None:
        self.starts += 1
        await self._start()

    async def state(self, container_id: str) -> dict[str, Any]:
        self.asked.set()
        await self.answering.wait()
        if self._status is None:
            raise UnavailableError("nobody tells")
        return {"status": self._status}


def starting(init: Init, commands: Commands) -> Start:
    return Start("a", cast("Process", init), cast("Runtime", commands))


async def fail() -> None:
    raise InternalError("the pool is on fire")


@pytest.mark.parametrize(("status", "begun"), [("running", True), ("created", False), (None, False)])
async def test_of_an_init_on_its_way_to_its_program_the_runtime_knows(
    init: Init, status: str | None, begun: bool
) -> None:
    one = starting(init, Commands(fail, status))

    with pytest.raises(InternalError, match="on fire"):
        await one.run()

    assert one.begun is begun


async def test_a_start_that_is_cancelled_may_end_by_itself(init: Init) -> None:
    """Its command is killed only if it does not: that could take init with it."""
    let_go, ended = asyncio.Event(), asyncio.Event()

    async def start() -> None:
        await let_go.wait()
        ended.set()

    one = starting(init, Commands(start, "created"))
    call = asyncio.ensure_future(one.run())
    await asyncio.sleep(0)
    call.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not call.done()
    let_go.set()

    await call
    assert one.begun
    assert ended.is_set()


async def test_a_start_that_is_cancelled_and_fails_by_itself_tells_how(init: Init) -> None:
    """What it started may be dead already, which is what calls it off."""
    let_go = asyncio.Event()

    async def start() -> None:
        await let_go.wait()
        await fail()

    one = starting(init, Commands(start, "running"))
    call = asyncio.ensure_future(one.run())
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.sleep(0)
    let_go.set()

    with pytest.raises(InternalError, match="on fire"):
        await call
    assert one.begun


async def test_a_start_that_is_cancelled_while_the_runtime_is_asked_has_begun(
    init: Init,
) -> None:
    commands = Commands(fail, "created")
    commands.answering.clear()
    one = starting(init, commands)
    call = asyncio.ensure_future(one.run())
    await commands.asked.wait()

    init.has_execed = True
    call.cancel()
    await asyncio.sleep(0)
    commands.answering.set()

    with pytest.raises(InternalError, match="on fire"):
        await call
    assert one.begun


async def test_a_start_that_is_cancelled_and_does_not_end_is_killed(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shimpy.core.container.start.GRACE", 0.01)
    killed = asyncio.Event()

    async def start() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            killed.set()

    one = starting(init, Commands(start, "created"))
    call = asyncio.ensure_future(one.run())
    await asyncio.sleep(0)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert killed.is_set()
    assert not one.begun


async def test_a_second_start_finds_what_the_first_has_done(init: Init) -> None:
    """One that failed after its work, when nobody could tell."""
    commands = Commands(fail, None)
    one = starting(init, commands)
    with pytest.raises(InternalError):
        await one.run()
    assert not one.begun
    init.has_execed = True

    await one.run()

    assert one.begun
    assert commands.starts == 1


async def test_a_second_start_of_what_has_not_begun_is_a_start(init: Init) -> None:
    commands = Commands(fail, "created")
    one = starting(init, commands)
    for _ in range(2):
        with pytest.raises(InternalError):
            await one.run()

    assert (one.begun, commands.starts) == (False, 2)
