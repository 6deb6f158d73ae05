"""A tracked process: its status, once, whoever else waits for children."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from shimpy.core.reaper import LOST_STATUS, Reaper
from shimpy.errors import InternalError
from tests.support.forks import Exit, exits, fork, is_zombie, orphan, sleeps
from tests.support.leaks import children, eventually, zombies

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("status", [0, 7, 255])
async def test_a_tracked_process_has_the_exit_code_it_ended_with(reaper: Reaper, status: int) -> None:
    exit_ = Exit()
    with reaper.spawning():
        child = reaper.track(fork(exits(status)), exit_)
    assert await exit_.status() == status
    assert child.exit_status == status


async def test_one_that_a_signal_ended_has_128_more(reaper: Reaper) -> None:
    exit_ = Exit()
    with reaper.spawning():
        child = reaper.track(fork(sleeps), exit_)
    assert child.exit_status is None
    child.kill(signal.SIGTERM)
    assert await exit_.status() == 128 + signal.SIGTERM
    child.kill()


async def test_one_that_stops_and_goes_on_has_not_ended(reaper: Reaper) -> None:
    exit_ = Exit()
    with reaper.spawning():
        child = reaper.track(fork(sleeps), exit_)
    child.kill(signal.SIGSTOP)
    await eventually(lambda: children()[child.pid] == "T")
    child.kill(signal.SIGCONT)
    await eventually(lambda: children()[child.pid] == "S")
    assert exit_.statuses == []
    child.kill()
    assert await exit_.status() == 137


async def test_an_exit_is_never_told_from_within_track(reaper: Reaper) -> None:
    exit_ = Exit()
    with reaper.spawning():
        pid = fork(exits(3))
        await eventually(lambda: is_zombie(pid))
        child = reaper.track(pid, exit_)
        assert exit_.statuses == []
        assert child.exit_status is None
    assert await exit_.status() == 3


async def test_one_that_dies_before_its_pid_is_known_keeps_status_and_pid(reaper: Reaper) -> None:
    """However much is swept meanwhile."""
    exits_ = {}
    with reaper.spawning():
        pids = [orphan(exits(number)) for number in range(20)]
        await eventually(lambda: set(pids) <= set(zombies()))
        for _ in range(3):
            process = reaper.spawn("true")
            await reaper.wait(process)
        for number, pid in enumerate(pids):
            exits_[number] = Exit()
            reaper.track(pid, exits_[number])
    assert [await exits_[number].status() for number in range(20)] == list(range(20))


async def test_a_wrong_pid_is_refused(reaper: Reaper) -> None:
    gone = fork(exits(0))
    os.waitpid(gone, 0)
    exit_ = Exit()
    with reaper.spawning():
        tracked = reaper.track(fork(sleeps), exit_)
        spawned = reaper.spawn("sleep", "1000")
    for pid, words in [
        (gone, "does not exist"),
        (os.getpid(), "not a child"),
        (1, "not a child"),
        (tracked.pid, "already tracked"),
        (spawned.pid, "already tracked"),
        (2**22 + 1, "does not exist"),
    ]:
        with pytest.raises(InternalError, match=words):
            reaper.track(pid, Exit())
    tracked.kill()
    spawned.child.kill()
    assert await exit_.status() == 137
    assert await reaper.wait(spawned) == -signal.SIGKILL


async def test_a_grandchild_is_not_a_child(reaper: Reaper) -> None:
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 1000 & echo $!; wait", stdout=asyncio.subprocess.PIPE
    )
    with reaper.spawning():
        pass
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    with pytest.raises(InternalError, match="not a child"):
        reaper.track(pid, Exit())
    os.kill(pid, signal.SIGKILL)
    await process.communicate()


async def test_a_closed_reaper_tracks_nothing() -> None:
    with pytest.raises(InternalError, match="not open"):
        Reaper().track(os.getpid(), Exit())


async def test_a_status_that_somebody_else_took_is_said_to_be_lost(
    reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    """It neither hangs nor keeps the event loop busy."""
    exit_ = Exit()
    with reaper.spawning():
        pid = fork(exits(3))
        reaper.track(pid, exit_)
        os.waitpid(pid, 0)
    assert await exit_.status() == LOST_STATUS
    assert "waited for elsewhere" in caplog.text


async def test_an_error_of_who_hears_of_an_exit_stops_nothing(sweeping: Reaper) -> None:
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))

    def fails(_status: int) -> None:
        raise ValueError("on_exit")

    exit_ = Exit()
    with sweeping.spawning():
        sweeping.track(fork(exits(0)), fails)
        sweeping.track(fork(exits(1)), exit_)
        orphan(exits(2))
    assert await exit_.status() == 1
    await eventually(lambda: not children())
    assert [str(context["exception"]) for context in heard] == ["on_exit"]
