"""Calls to a shim in this process: they end as calls over a socket do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import shimpy
from shimpy.services.shim_v1 import Shim
from shimpy.testing import FakeRuntime, Hang
from tests.support.leaks import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    """A runtime that does as it is told."""
    with FakeRuntime() as fake:
        yield fake


async def test_error_that_is_none_of_shimpys_is_internal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(_shim: Shim, _request: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(Shim, "state", failing)
    async with shimpy.in_process() as client:
        with pytest.raises(shimpy.InternalError, match="its log has the details"):
            await client.state()
        monkeypatch.undo()
    assert "a mistake" in caplog.text


async def test_cancellation_that_nobody_asked_for_is_internal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken_off(_shim: Shim, _request: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(Shim, "state", broken_off)
    async with shimpy.in_process() as client:
        with pytest.raises(shimpy.InternalError, match="broken off"):
            await client.state()
        monkeypatch.undo()
    assert "cancelled from within" in caplog.text


async def test_call_that_is_out_of_time_has_no_effect(
    bundle: Callable[..., str], new_id: Callable[[], str], fake: FakeRuntime
) -> None:
    fake.fault("create", Hang())
    async with shimpy.in_process(runtime=fake.path) as client:
        with pytest.raises(shimpy.DeadlineExceededError):
            await client.create(new_id(), bundle("true"), timeout=0.1)
        assert (await client.state()).pid == 0


async def test_call_under_way_at_the_end_of_the_block_fails(
    bundle: Callable[..., str], new_id: Callable[[], str], fake: FakeRuntime
) -> None:
    fake.fault("create", Hang())
    async with shimpy.in_process(runtime=fake.path) as client:
        creating = asyncio.ensure_future(client.create(new_id(), bundle("true")))
        await eventually(lambda: [call for call in fake.calls if call.command == "create"])
    with pytest.raises(shimpy.UnavailableError, match="block has ended"):
        await creating


async def test_text_that_no_message_can_carry_is_refused_as_over_a_socket() -> None:
    path: Any = "/\udcff"
    async with shimpy.in_process() as client:
        with pytest.raises(shimpy.InvalidArgumentError, match="not valid Unicode"):
            await client.create("web", path)
