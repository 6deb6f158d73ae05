"""What is deleted is freed at once: a shim that runs for months does not grow with what it has run."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shimpy.core.container.process import Process
from shimpy.core.reaper import Child
from shimpy.core.stdio.processio import PlainIO
from shimpy.core.stdio.stdin_pump import StdinPump
from shimpy.core.stdio.terminal import TerminalIO
from tests.support.fifos import Fifo
from tests.support.leaks import memory
from tests.support.lives import Life
from tests.support.rounds import FULL, rounds
from tests.support.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3600 if FULL else 120)]

SIX_AT_A_TIME = 6


async def run_many(life: Life, count: int, *args: str, **fields: Any) -> None:
    """Runs processes in a container, six at a time, and deletes each."""
    numbers = iter(range(count))

    async def worker() -> None:
        for _ in numbers:
            await life.delete(await life.exec(*args, **fields))

    async with asyncio.TaskGroup() as workers:
        for _ in range(SIX_AT_A_TIME):
            workers.create_task(worker())


async def running(live: Callable[..., Life]) -> Life:
    life = live("sleep", "1000000")
    await life.create()
    await life.start()
    return life


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No reference cycle is broken up meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def counts() -> Counter[type]:
    """Returns how many there are of what belongs to one process each."""
    kinds = {Process, Child, PlainIO, StdinPump, TerminalIO}
    return Counter(type(thing) for thing in gc.get_objects() if type(thing) in kinds)


@pytest.mark.parametrize(
    "how", ["ends", "is-killed", "on-a-terminal", "with-a-stdin"], ids=lambda how: f"one-that-{how}"
)
async def test_what_belongs_to_a_process_is_freed_with_it(
    live: Callable[..., Life], fifo: Callable[[str], Fifo], uncollected: None, how: str
) -> None:
    """By the count of references alone, which costs nothing and never comes too late."""
    args = ["sleep", "1000"] if how == "is-killed" else ["true"]
    fields: dict[str, Any] = {"terminal": how == "on-a-terminal"}
    if how == "with-a-stdin":
        fields["stdin"] = str(fifo("stdin"))
    life = await running(live)
    before = counts()
    await run_many(life, rounds(25, 2000), *args, **fields)
    assert counts() == before


@pytest.mark.skipif(not FULL, reason="ten thousand processes take minutes; SHIMPY_ROUNDS=full has them")
async def test_ten_thousand_processes_leave_less_than_a_megabyte(
    live_served: Callable[..., Life], server: Server
) -> None:
    life = await running(live_served)
    # Of so many the journal has the last events, and h2 the last streams, all that they ever have.
    await run_many(life, 2_500, "true")
    before = memory(server.pid)
    await run_many(life, 10_000, "true")
    assert memory(server.pid) - before < 1 << 20
