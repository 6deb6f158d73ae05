"""Orphans are reaped, and never one too many."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from shimpy.core.reaper import Reaper, orphans, procfs, tracking
from shimpy.core.reaper.registry import Waited, registry
from tests.support.forks import exits, fork, is_zombie, orphan, sleeps
from tests.support.leaks import children, eventually, zombies
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio


async def test_orphans_are_swept(sweeping: Reaper) -> None:
    for _ in range(50):
        orphan(exits(0))
    await eventually(lambda: not children())


async def test_what_died_before_is_swept_too() -> None:
    pid = fork(exits(0))
    await eventually(lambda: is_zombie(pid))
    reaper = Reaper(sweep_orphans=True)
    reaper.open()
    assert not is_zombie(pid)
    reaper.close()


async def test_no_orphan_is_swept_that_was_born_in_a_window(sweeping: Reaper) -> None:
    outer = sweeping.spawning()
    with outer:
        with sweeping.spawning():
            pid = orphan(exits(0))
            await eventually(lambda: is_zombie(pid))
        await sweeping.wait(sweeping.spawn("true"))
        assert is_zombie(pid)
    assert not is_zombie(pid)


async def test_what_is_older_than_every_window_is_swept_all_the_same(sweeping: Reaper) -> None:
    """Or zombies would pile up as long as a runtime hangs."""
    pids = [orphan(sleeps) for _ in range(10)]
    youngest = max(procfs.start_time(pid) for pid in pids)
    await eventually(lambda: procfs.now() > youngest)
    with sweeping.spawning():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not children())


async def test_windows_that_overlap_without_end_starve_nobody(sweeping: Reaper) -> None:
    over = asyncio.Event()

    async def commands(delay: float) -> None:
        while not over.is_set():
            with sweeping.spawning():
                await asyncio.sleep(delay)

    busy = [asyncio.create_task(commands(0.03 + number / 1000)) for number in range(4)]
    await asyncio.sleep(0)
    most = 0
    for number in range(1, rounds(80, 2000) + 1):
        orphan(exits(0))
        await asyncio.sleep(0.001)
        if number % 10 == 0:  # to look through all of /proc takes longer than the rest
            most = max(most, len(zombies()))
    await eventually(lambda: not children())
    assert registry.is_open_since(procfs.now())
    over.set()
    await asyncio.gather(*busy)
    assert most < 150


async def test_asyncio_gets_the_status_of_what_it_spawned(reaper: Reaper) -> None:
    async def one(status: int) -> int:
        process = reaper.spawn("sh", "-c", f"exit {status}")
        orphan(exits(0)) if reaper._sweeps else None
        return await reaper.wait(process)

    async with asyncio.timeout(30):
        assert await asyncio.gather(*map(one, range(40))) == list(range(40))
    await eventually(lambda: not children())


async def test_a_program_that_is_not_there(reaper: Reaper) -> None:
    with pytest.raises(FileNotFoundError):
        reaper.spawn("/not/there")
    await eventually(lambda: not children())


async def test_what_was_killed_is_left_to_who_waits_for_it(embedded: Reaper) -> None:
    """A process that became one of ours while the command that made it was being killed."""
    pid = fork(sleeps)
    waited = Waited(pid, -1)
    registry.add(waited)
    embedded._orphans.bury({os.pidfd_open(pid): pid})
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not embedded._orphans._dying)
    assert is_zombie(pid)
    registry.discard(waited)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


async def test_what_is_claimed_and_dies_while_nothing_else_happens_is_reaped(
    embedded: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the pid namespace of a dying init it would keep init from dying, and so anything from happening."""
    monkeypatch.setattr(orphans, "PERIOD", 0.01)
    monkeypatch.setattr(tracking, "SURVEY", 0.05)
    ended = asyncio.Event()
    living = embedded.track(fork(sleeps), lambda _status: ended.set())
    pid = orphan(sleeps)
    embedded.claim(lambda claimed: claimed == pid, watch=False)
    await eventually(lambda: embedded._orphans._timer is None)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: pid not in children())
    living.kill()
    await ended.wait()
