"""The channel that carries events: order, who gets what, and a listener that does not keep up."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
import warnings
from collections.abc import AsyncIterator

import pytest

from shimpy.core.events import BACKLOG, Broadcast, Subscription
from shimpy.core.model import ContainerEvent, EventKind
from shimpy.errors import ResourceExhaustedError, UnavailableError

pytestmark = pytest.mark.anyio


async def rest(items: AsyncIterator[int]) -> list[int]:
    """Everything until the channel ends."""
    return [item async for item in items]


async def some(items: Subscription[int], count: int) -> list[int]:
    return [await anext(items) for _ in range(count)]


async def test_every_subscriber_gets_everything_in_one_order() -> None:
    channel: Broadcast[int] = Broadcast()
    listeners = [channel.subscribe() for _ in range(5)]
    reading = [asyncio.create_task(rest(listener)) for listener in listeners]
    for item in range(1000):
        channel.publish(item)
        if item % 7 == 0:
            await asyncio.sleep(0)
    channel.close()
    for task, listener in zip(reading, listeners, strict=True):
        assert await task == list(range(1000))
        listener.close()


async def test_a_subscriber_gets_what_comes_after_it() -> None:
    channel: Broadcast[int] = Broadcast()
    first = channel.subscribe()
    channel.publish(1)
    second = channel.subscribe()
    channel.publish(2)
    channel.close()
    assert await rest(first) == [1, 2]
    assert await rest(second) == [2]
    first.close()
    second.close()


async def test_what_nobody_heard_is_for_the_first_subscriber_alone() -> None:
    channel: Broadcast[int] = Broadcast()
    channel.publish(1)
    channel.publish(2)
    first, second = channel.subscribe(), channel.subscribe()
    channel.publish(3)
    channel.close()
    assert await rest(first) == [1, 2, 3]
    assert await rest(second) == [3]
    first.close()
    second.close()


async def test_it_is_kept_again_once_the_last_subscriber_has_left() -> None:
    channel: Broadcast[int] = Broadcast()
    first, second = channel.subscribe(), channel.subscribe()
    first.close()
    channel.publish(1)
    second.close()
    channel.publish(2)
    third = channel.subscribe()
    channel.close()
    assert await rest(third) == [2]
    third.close()


async def test_the_backlog_holds_the_last_of_it() -> None:
    channel: Broadcast[int] = Broadcast()
    for item in range(BACKLOG + 10):
        channel.publish(item)
    listener = channel.subscribe()
    assert await some(listener, BACKLOG) == list(range(10, BACKLOG + 10))
    listener.close()
    channel.close()


async def test_one_of_five_leaves() -> None:
    channel: Broadcast[int] = Broadcast()
    listeners = [channel.subscribe() for _ in range(5)]
    channel.publish(1)
    listeners[2].close()
    channel.publish(2)
    channel.close()
    assert [await rest(one) for one in listeners] == [[1, 2], [1, 2], [], [1, 2], [1, 2]]
    for one in listeners:
        one.close()


async def test_others_have_their_turn_however_much_there_is_to_read() -> None:
    channel: Broadcast[int] = Broadcast()
    listener = channel.subscribe()
    for item in range(BACKLOG):
        channel.publish(item)
    turn = asyncio.Event()
    asyncio.get_running_loop().call_later(0, turn.set)
    read = 0
    while read < BACKLOG and not turn.is_set():
        await anext(listener)
        read += 1
    assert turn.is_set()
    listener.close()
    channel.close()


async def test_leaving_twice_or_after_the_end_is_harmless() -> None:
    channel: Broadcast[int] = Broadcast()
    listener = channel.subscribe()
    listener.close()
    listener.close()
    channel.close()
    channel.close()
    listener.close()
    channel.publish(1)


async def test_leaving_ends_an_iteration_that_waits() -> None:
    channel: Broadcast[int] = Broadcast()
    listener = channel.subscribe()
    waiting = asyncio.create_task(rest(listener))
    await asyncio.sleep(0)
    listener.close()
    assert await waiting == []
    channel.close()


async def test_who_does_not_read_is_told_after_what_fitted_and_delays_nobody() -> None:
    channel: Broadcast[int] = Broadcast(limit=8)
    lazy, eager = channel.subscribe(), channel.subscribe()
    read = []
    for item in range(100):
        channel.publish(item)
        read.append(await anext(eager))
    assert read == list(range(100))
    assert await some(lazy, 8) == list(range(8))
    with pytest.raises(ResourceExhaustedError, match="more than 8 events were left unread"):
        await anext(lazy)
    with pytest.raises(ResourceExhaustedError):
        await anext(lazy)
    lazy.close()
    eager.close()
    channel.close()


async def test_who_fell_behind_goes_on_where_it_was_when_it_is_alone() -> None:
    channel: Broadcast[int] = Broadcast(limit=8)
    lazy = channel.subscribe()
    for item in range(12):
        channel.publish(item)
    seen = await some(lazy, 8)
    with pytest.raises(ResourceExhaustedError):
        await anext(lazy)
    lazy.close()
    again = channel.subscribe()
    assert seen + await some(again, 4) == list(range(12))
    again.close()
    channel.close()


async def test_exactly_the_limit_may_be_unread() -> None:
    channel: Broadcast[int] = Broadcast()
    listener = channel.subscribe()
    for item in range(BACKLOG):
        channel.publish(item)
    channel.close()
    assert await rest(listener) == list(range(BACKLOG))
    listener.close()


async def test_the_end_comes_after_what_was_published() -> None:
    channel: Broadcast[int] = Broadcast()
    early, late = channel.subscribe(), channel.subscribe()
    waiting = asyncio.create_task(rest(early))
    await asyncio.sleep(0)
    channel.publish(1)
    channel.publish(2)
    channel.close()
    channel.publish(3)
    assert await waiting == [1, 2]
    assert await rest(late) == [1, 2]
    assert await rest(late) == []
    early.close()
    late.close()


async def test_nobody_subscribes_after_the_end() -> None:
    channel: Broadcast[int] = Broadcast()
    channel.publish(1)
    channel.close()
    with pytest.raises(UnavailableError, match="shutting down"):
        channel.subscribe()


async def test_a_closed_subscription_makes_no_noise() -> None:
    """A memory object stream that is only dropped would warn; these are closed whatever their end was."""
    channel: Broadcast[int] = Broadcast(limit=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fate in ("left", "lagged", "ended"):
            listener = channel.subscribe()
            for item in range(3 if fate == "lagged" else 1):
                channel.publish(item)
            if fate == "ended":
                channel.close()
            listener.close()
            del listener
            gc.collect()


async def test_what_is_unread_costs_little() -> None:
    """Five listeners that read nothing hold the same events, not a copy each."""
    channel: Broadcast[ContainerEvent] = Broadcast()
    listeners = [channel.subscribe() for _ in range(5)]
    tracemalloc.start()
    try:
        for pid in range(BACKLOG):
            channel.publish(ContainerEvent("container", EventKind.EXIT, 1, 100_000 + pid, exit_status=137))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < BACKLOG * 256
    for listener in listeners:
        listener.close()
    channel.close()


async def test_many_come_and_go_and_nothing_stays() -> None:
    channel: Broadcast[int] = Broadcast()
    stays = channel.subscribe()
    for item in range(1000):
        guest = channel.subscribe()
        channel.publish(item)
        assert await anext(guest) == item
        guest.close()
        await anext(stays)
    assert len(channel._subscriptions) == 1
    stays.close()
    assert channel._subscriptions == []
    channel.close()
