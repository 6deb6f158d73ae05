"""Work that takes full effect or none: who cancels it, how often, and what each waiter gets."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shimpy.core.container.operation import Operation, Operations, undo
from shimpy.errors import FailedPreconditionError, InternalError, ShimError, UnavailableError

pytestmark = pytest.mark.anyio

REASON = UnavailableError("the shim is shutting down")


class Work:
    """Waits until it is let go, or rolls back until it is let go.

    Attributes:
        cancelled: how often it was.
        go: lets it complete.
        rolled_back: lets the rollback complete.
    """

    def __init__(self) -> None:
        self.cancelled = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.rolling_back = asyncio.Event()
        self.wait_rolled_back = asyncio.Event()
        self.done = False

    async def run(self) -> int:
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.rolling_back.set()
            try:
                await self.wait_rolled_back.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
            raise
        finally:
            self.done = True
        return 7


@pytest.fixture
async def noises() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop had to report."""
    heard: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: heard.append(context))
    yield heard
    loop.set_exception_handler(None)


async def begin(work: Work) -> Operation[int]:
    operation = Operation(work.run())
    await work.begun.wait()
    return operation


async def ticks(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_result_is_for_everybody_who_waits() -> None:
    work = Work()
    operation = await begin(work)
    waiting = [asyncio.create_task(operation.result()) for _ in range(3)]
    await ticks()
    work.go.set()
    assert await asyncio.gather(*waiting) == [7, 7, 7]
    assert await operation.result() == 7
    assert operation.done
    assert operation.cancelling_or_done


async def test_one_waiter_of_two_that_leaves_ends_nothing() -> None:
    work = Work()
    operation = await begin(work)
    leaves, stays = asyncio.create_task(operation.result()), asyncio.create_task(operation.result())
    await ticks()
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert not operation.cancelling_or_done
    work.go.set()
    assert await stays == 7
    assert work.cancelled == 0


async def test_the_last_waiter_that_leaves_ends_it_and_waits_for_the_rollback() -> None:
    work = Work()
    operation = await begin(work)
    both = [asyncio.create_task(operation.result()) for _ in range(2)]
    await ticks()
    for one in both:
        one.cancel()
    await work.rolling_back.wait()
    assert operation.cancelling_or_done
    assert not operation.done
    assert both[0].done()
    assert not both[1].done()
    work.wait_rolled_back.set()
    with pytest.raises(asyncio.CancelledError):
        await both[1]
    assert work.done
    assert work.cancelled == 1


async def test_cancelling_again_while_it_is_rolled_back_does_not_reach_it() -> None:
    work = Work()
    operation = await begin(work)
    waiter = asyncio.create_task(operation.result())
    await ticks()
    waiter.cancel()
    await work.rolling_back.wait()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert not work.done
    operation.abort(REASON)
    await ticks()
    work.wait_rolled_back.set()
    await operation.wait()
    assert work.cancelled == 1


async def test_an_abort_gives_its_reason_to_everybody_who_waits() -> None:
    work = Work()
    operation = await begin(work)
    waiting = [asyncio.create_task(operation.result()) for _ in range(2)]
    await ticks()
    operation.abort(REASON)
    operation.abort(FailedPreconditionError("a second reason is too late"))
    await work.rolling_back.wait()
    work.wait_rolled_back.set()
    assert await asyncio.gather(*waiting, return_exceptions=True) == [REASON, REASON]
    with pytest.raises(UnavailableError, match="shutting down"):
        await operation.result()
    assert work.cancelled == 1


async def test_a_waiter_that_is_cancelled_itself_does_not_get_the_reason() -> None:
    work = Work()
    operation = await begin(work)
    waiter = asyncio.create_task(operation.result())
    await ticks()
    operation.abort(REASON)
    waiter.cancel()
    work.wait_rolled_back.set()
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_an_abort_before_the_first_step_lets_it_take_that_step() -> None:
    """What is cancelled before it begins runs none of its own code, so it could give nothing back."""
    work = Work()
    work.wait_rolled_back.set()
    operation = Operation(work.run())
    operation.abort(REASON)
    with pytest.raises(UnavailableError):
        await operation.result()
    assert work.cancelled == 1


async def test_work_that_completes_nevertheless_is_not_said_to_have_failed() -> None:
    begun = asyncio.Event()

    async def stubborn() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done"
        raise AssertionError

    operation = Operation(stubborn())
    await begun.wait()
    operation.abort(REASON)
    assert await operation.result() == "done"


async def test_an_error_of_the_rollback_is_what_the_waiter_gets() -> None:
    begun = asyncio.Event()

    async def breaks() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise InternalError("cannot undo") from None

    operation = Operation(breaks())
    await begun.wait()
    operation.abort(REASON)
    with pytest.raises(InternalError, match="cannot undo"):
        await operation.result()


async def test_an_abort_after_the_end_changes_nothing() -> None:
    async def quick() -> int:
        return 3

    operation = Operation(quick())
    assert await operation.result() == 3
    operation.abort(REASON)
    assert await operation.result() == 3


@pytest.mark.parametrize("waited_for", [False, True])
async def test_an_error_that_nobody_sees_makes_no_noise(noises: list[Any], *, waited_for: bool) -> None:
    """Neither when nobody ever waited, nor when who did has gone; Python 3.14's shield would report that."""
    go = asyncio.Event()

    async def fails() -> None:
        try:
            await go.wait()
        finally:
            raise InternalError("nobody hears this")

    operation = Operation(fails())
    if waited_for:
        waiter = asyncio.create_task(operation.result())
        await ticks()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    go.set()
    await operation.wait()
    del operation
    gc.collect()
    await ticks()
    assert noises == []


async def test_what_follows_the_end_comes_before_anybody_hears_of_it() -> None:
    order: list[str] = []

    async def quick() -> None:
        order.append("work")

    def then(operation: Operation[None]) -> None:
        assert operation.done
        order.append("then")

    operation = Operation(quick(), then)
    await operation.result()
    order.append("heard")
    assert order == ["work", "then", "heard"]


async def test_settled_waits_for_any_end_and_raises_nothing() -> None:
    async def fails() -> None:
        raise InternalError("broken")

    await Operation(fails()).wait()
    work = Work()
    work.wait_rolled_back.set()
    operation = await begin(work)
    operation.abort(REASON)
    await operation.wait()
    assert work.done


async def test_who_settles_and_is_cancelled_ends_nothing() -> None:
    work = Work()
    operation = await begin(work)
    settling = asyncio.create_task(operation.wait())
    await ticks()
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    assert not operation.cancelling_or_done
    work.go.set()
    assert await operation.result() == 7


async def test_of_what_is_under_way_one_is_a_change() -> None:
    over = 0

    def count() -> None:
        nonlocal over
        over += 1

    operations = Operations(count)
    pausing, execing = Work(), Work()
    change = operations.begin(pausing.run(), "paused")
    other = operations.begin(execing.run())
    assert operations
    assert operations.exclusive == "paused"
    assert set(operations) == {change, other}
    pausing.go.set()
    await change.result()
    assert operations.exclusive is None
    assert list(operations) == [other]
    execing.go.set()
    await other.result()
    assert not operations
    assert over == 2


async def test_calling_off_reaches_all_and_waits_for_every_rollback() -> None:
    operations = Operations(lambda: None)
    works = [Work() for _ in range(3)]
    running = [operations.begin(work.run()) for work in works]
    await ticks()
    waiting = [asyncio.create_task(operation.result()) for operation in running]
    calling = asyncio.create_task(operations.cancel_all(REASON))
    for work in works:
        await work.rolling_back.wait()
    assert not calling.done()
    for work in works:
        work.wait_rolled_back.set()
    await calling
    results: list[int | BaseException] = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(result, ShimError) for result in results] == [True, True, True]
    assert not operations


async def test_a_change_that_was_called_off_can_be_awaited() -> None:
    """So that the same call can be made again at once."""
    operations = Operations(lambda: None)
    await operations.wait_rolled_back()
    work = Work()
    change = operations.begin(work.run(), "paused")
    await work.begun.wait()
    await operations.wait_rolled_back()
    change.abort(REASON)
    waiting = asyncio.create_task(operations.wait_rolled_back())
    await work.rolling_back.wait()
    assert not waiting.done()
    work.wait_rolled_back.set()
    await waiting
    assert operations.exclusive is None


async def test_a_rollback_that_follows_an_error_is_not_cut_short() -> None:
    """Its work has not met its one cancellation yet."""
    begun, go_on, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def rollback() -> None:
        begun.set()
        await go_on.wait()
        gone.set()

    async def fail() -> None:
        raise InternalError("the runtime refused")

    async def work() -> None:
        try:
            await fail()
        except InternalError:
            await undo(rollback())
            raise

    operation = Operation(work())
    await begun.wait()
    operation.abort(REASON)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not operation.done
    go_on.set()

    with pytest.raises(UnavailableError):
        await operation.result()
    assert gone.is_set()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_a_rollback_raises_is_not_lost(*, cancelled: bool) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def rollback() -> None:
        begun.set()
        await go_on.wait()
        raise InternalError("it could not be killed")

    task = asyncio.create_task(undo(rollback()))
    await begun.wait()
    if cancelled:
        task.cancel()
        await asyncio.sleep(0)
    go_on.set()

    with pytest.raises(InternalError, match="could not be killed"):
        await task
