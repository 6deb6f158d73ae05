"""Processes that live on until they are killed or their container ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import shimpy
from tests.client.conftest import trap_set
from tests.support.leaks import eventually
from tests.support.sandboxes import inside, sandbox

pytestmark = pytest.mark.anyio


async def test_it_writes_to_the_file_that_is_named(sandboxed: shimpy.Container, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    process = await sandboxed.spawn(["sh", "-c", "echo hello; exit 4"], stdout=log)
    assert await process.wait() == 4
    assert log.read_text() == "hello\n"


async def test_it_lives_on_beside_other_commands(sandboxed: shimpy.Container) -> None:
    process = await sandboxed.spawn(["sleep", "1000"])
    await sandboxed.run(["true"])
    assert process.pid in inside(sandboxed.id)


async def test_killing_it_takes_all_that_it_started(sandboxed: shimpy.Container) -> None:
    process = await sandboxed.spawn(["sh", "-c", "sleep 1000 & sleep 1000"])
    await process.kill()
    assert await process.wait() == 137
    await eventually(lambda: inside(sandboxed.id) == {sandboxed.pid})


async def test_once_it_has_ended_the_shim_forgets_it(sandboxed: shimpy.Container) -> None:
    process = await sandboxed.spawn(["true"])
    assert await process.wait() == 0
    assert [listed.pid for listed in (await sandboxed.state()).processes] == [sandboxed.pid]
    with pytest.raises(shimpy.FailedPreconditionError, match="has ended"):
        await process.kill(signal.SIGTERM)
    await process.kill()  # gone is gone
    assert await process.stop() == 0


async def test_it_is_stopped_by_sigterm(reached: shimpy.Container) -> None:
    process = await reached.spawn(["sh", "-c", "trap 'exit 5' TERM; sleep 1000 & wait"])
    await trap_set(process.pid)
    assert await process.stop() == 5


async def test_it_ends_with_its_container(bundle: Callable[..., str], new_id: Callable[[], str]) -> None:
    async with sandbox(bundle, new_id()) as container:
        process = await container.spawn(["sleep", "1000"])
        waiting = asyncio.ensure_future(process.wait())
    assert await waiting == 137
    assert not Path(f"/proc/{process.pid}").exists()
