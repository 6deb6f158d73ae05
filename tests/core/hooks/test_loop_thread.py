"""Threads with event loops: one that blocks holds up only its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from shimpy.core.hooks import loop_thread
from shimpy.core.hooks.loop_thread import LoopThread
from shimpy.errors import ResourceExhaustedError
from tests.support.leaks import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What blocked threads wait for; blocked is one that has done nothing for a twentieth of a second."""
    monkeypatch.setattr(loop_thread, "STALL", 0.05)
    event = threading.Event()
    yield event
    event.set()


async def test_those_behind_a_blocked_one_get_another_thread(release: threading.Event) -> None:
    thread = LoopThread("test")

    begun = threading.Event()

    async def block() -> str:
        begun.set()
        release.wait()
        return threading.current_thread().name

    async def ident() -> int:
        return threading.get_ident()

    blocked = asyncio.ensure_future(thread.run(block, 30))
    await eventually(begun.is_set)
    idents = {(await thread.run(ident, 30)).value for _ in range(3)}
    assert len(idents) == 1
    release.set()
    assert (await blocked).value == "test"
    thread.close()


async def test_there_is_an_end_to_the_threads(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_thread, "MAX_BLOCKED", 2)
    thread = LoopThread("test")

    begun: list[str] = []

    async def block() -> None:
        begun.append("one more")
        release.wait()

    async def nothing() -> int:
        return 1

    blocked = [asyncio.ensure_future(thread.run(block, 30)) for _ in range(2)]
    await eventually(lambda: len(begun) == 2)
    with pytest.raises(ResourceExhaustedError, match="test has blocked 2 threads"):
        await thread.run(nothing, 30)
    release.set()
    await asyncio.gather(*blocked)
    await eventually(lambda: "test" not in [each.name for each in threading.enumerate()])
    assert (await thread.run(nothing, 30)).value == 1
    thread.close()


async def test_a_call_that_is_cancelled_is_so_in_its_thread() -> None:
    thread = LoopThread("test")
    begun, cancelled = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(1000)
        finally:
            cancelled.set()

    call = asyncio.ensure_future(thread.run(wait, 1000))
    await eventually(begun.is_set)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await eventually(cancelled.is_set)
    thread.close()


async def test_what_would_end_the_thread_is_an_outcome() -> None:
    thread = LoopThread("test")

    async def leave() -> None:
        raise SystemExit(3)

    async def nothing() -> int:
        return 1

    assert isinstance((await thread.run(leave, 30)).error, SystemExit)
    assert (await thread.run(nothing, 30)).value == 1
    thread.close()
