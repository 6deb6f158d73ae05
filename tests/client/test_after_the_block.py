"""What becomes of a client's things when the block that they belong to has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import shimpy

pytestmark = pytest.mark.anyio


async def test_iteration_under_way_ends_when_the_subscription_does() -> None:
    async with shimpy.in_process() as client:
        async with client.events() as events:
            waiting = asyncio.ensure_future(anext(events, None))
            await client.state()  # by now it waits for an event
        assert await waiting is None


async def test_iteration_that_is_just_subscribing_ends_when_it_is_closed() -> None:
    async with shimpy.in_process() as client:
        events = client.events()
        waiting = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(0)
        await events.aclose()
        assert await waiting is None


async def test_subscription_that_has_ended_stays_ended() -> None:
    async with shimpy.in_process() as client:
        async with client.events() as events:
            pass
        assert await anext(events, None) is None
        with pytest.raises(RuntimeError, match=r"events\(\)"):
            async with events:
                pass


async def test_iteration_that_is_cancelled_as_the_subscription_ends_is_cancelled() -> None:
    async with shimpy.in_process() as client:
        async with client.events() as events:
            waiting = asyncio.ensure_future(anext(events))
            await client.state()
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_subscription_is_of_use_after_an_iteration_that_was_cancelled(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with shimpy.in_process() as client, client.events() as events:
        waiting = asyncio.ensure_future(anext(events))
        await client.state()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        pid = await client.create(new_id(), bundle("true"))
        assert (await anext(events)).pid == pid
