"""A service under requests that mean harm: each ends as documented, and nothing is left of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import shimpy
from shimpy.client.program import program
from tests.support.hostile import KINDS, Hostile
from tests.support.leaks import descriptors, memory
from tests.support.rounds import FULL, rounds
from tests.support.usr_root import options, programs

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]


async def _serve(root: Path, kind: Hostile) -> shimpy.Result | None:
    given = options(**kind.options) if kind.needs else kind.options
    running = asyncio.ensure_future(
        shimpy.run(root, ["sh", "-c", kind.script], timeout=kind.time, output_limit=1 << 16, **given)
    )
    if kind.disconnects:
        await asyncio.sleep(0.3)  # whatever it is doing by then: no moment may leave anything
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return None
    return await running


@pytest.mark.timeout(1200 if FULL else 120)
async def test_each_ends_as_documented_and_nothing_is_left(rootfs: Path, machines_programs: Path) -> None:
    await shimpy.run(rootfs, ["true"])
    before = memory(), len(descriptors())
    turns = asyncio.Semaphore(8)
    wrong: list[tuple[str, shimpy.Result]] = []

    async def request(name: str) -> None:
        async with turns:
            root = machines_programs if KINDS[name].needs else rootfs
            result = await _serve(root, KINDS[name])
        if result is not None and not KINDS[name].ends(result):
            wrong.append((name, result))

    there = [name for name, kind in KINDS.items() if not kind.needs or programs(kind.needs)]
    names = there * rounds(1, 20)
    await asyncio.gather(*map(request, names))

    assert wrong == []
    assert program.open().containers() == []
    assert [name for name in os.listdir(program.open().path) if name.startswith("tmp-")] == []
    assert len(descriptors()) <= before[1] + 1
    assert memory() - before[0] < 32 << 20
