"""A tracked process that somebody traces: its tracer has the zombie, and may never wait for it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from shimpy.core.reaper import LOST_STATUS, Reaper, procfs, tracking
from shimpy.errors import InternalError
from tests.support.forks import Exit, fork, is_zombie, sleeps
from tests.support.leaks import children, eventually
from tests.support.telling import spawn_telling
from tests.support.tracing import OnWord, traced

pytestmark = pytest.mark.anyio


async def test_its_exit_is_told_with_its_status(reaper: Reaper) -> None:
    exit_, process = Exit(), OnWord(7)
    child = reaper.track(process.pid, exit_)
    with traced(process.pid):
        process.exit()
        assert await exit_.status() == 7
        assert child.exit_status == 7


async def test_one_that_a_signal_ended_has_128_more(reaper: Reaper) -> None:
    exit_ = Exit()
    child = reaper.track(fork(sleeps), exit_)
    with traced(child.pid):
        child.kill()
        assert await exit_.status() == 128 + signal.SIGKILL


async def test_it_is_reaped_when_its_tracer_lets_go(reaper: Reaper) -> None:
    """And its exit is not told again."""
    exit_, process = Exit(), OnWord(7)
    reaper.track(process.pid, exit_)
    with traced(process.pid):
        process.exit()
        await exit_.status()
        assert is_zombie(process.pid)
    await eventually(lambda: not children())
    assert await exit_.status() == 7


async def test_its_pid_is_not_forgotten_before(reaper: Reaper) -> None:
    exit_, process = Exit(), OnWord(7)
    reaper.track(process.pid, exit_)
    with traced(process.pid):
        process.exit()
        await exit_.status()
        with pytest.raises(InternalError, match="already tracked"):
            reaper.track(process.pid, Exit())


async def test_what_was_killed_with_its_command_is_reaped_when_its_tracer_lets_go(
    embedded: Reaper,
) -> None:
    """In a pid namespace its zombie would keep init from dying."""
    command, told = spawn_telling(embedded, "sh", "-c", "sleep 1000 & echo $!; wait")
    with told:
        helper = int(told.readline())
    with traced(helper):
        await embedded.kill(command)
        await eventually(lambda: is_zombie(helper))
        await asyncio.sleep(0.1)
        assert is_zombie(helper)
    await eventually(lambda: not children())


async def test_it_does_not_keep_the_loop_busy(reaper: Reaper, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    real = os.waitid

    def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return real(*arguments)

    process = OnWord(7)
    reaper.track(process.pid, Exit())
    with traced(process.pid), monkeypatch.context() as patch:
        process.exit()
        await eventually(lambda: is_zombie(process.pid))
        patch.setattr(os, "waitid", counted)
        await asyncio.sleep(1)
    assert looks < 50


async def test_others_are_reaped_meanwhile(reaper: Reaper) -> None:
    exits, processes = [Exit() for _ in range(3)], [OnWord(status) for status in range(3)]
    for exit_, process in zip(exits, processes, strict=True):
        reaper.track(process.pid, exit_)
    with traced(processes[0].pid):
        for process in processes:
            process.exit()
        assert [await exit_.status() for exit_ in exits] == [0, 1, 2]


async def test_of_several_threads_it_has_an_exit_once_it_is_killed(reaper: Reaper) -> None:
    """The kernel does not say that it is dead: to it each thread is there until the tracer has waited."""
    exit_, process = Exit(), OnWord(7, threads=True)
    child = reaper.track(process.pid, exit_)
    with traced(process.pid):
        child.kill()
        assert await exit_.status() == 128 + signal.SIGKILL
    process.close()


async def test_of_several_threads_it_has_an_exit_without_being_killed(
    reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SURVEY", 0.05)
    exit_, process = Exit(), OnWord(7, threads=True)
    reaper.track(process.pid, exit_)
    with traced(process.pid):
        process.exit()
        assert await exit_.status() == 7


async def test_one_that_stops_because_it_is_traced_has_not_ended(
    reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SURVEY", 0.05)
    exit_, process = Exit(), OnWord(7)
    child = reaper.track(process.pid, exit_)
    with traced(process.pid):
        child.kill(signal.SIGUSR1)
        await eventually(lambda: children()[process.pid] == "t")
        await asyncio.sleep(0.2)
        assert exit_.statuses == []
        process.close()
        child.kill()
        assert await exit_.status() == 137


async def test_a_status_that_the_kernel_keeps_to_itself_is_said_to_be_lost(
    reaper: Reaper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From whoever may not trace the process."""

    def forbidden(_pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(procfs, "wait_status", forbidden)
    exit_, process = Exit(), OnWord(7)
    reaper.track(process.pid, exit_)
    with traced(process.pid):
        process.exit()
        assert await exit_.status() == LOST_STATUS
    assert f"process {process.pid} is traced" in caplog.text


async def test_none_is_left_when_its_tracer_has_ended_before_the_reaper_closes() -> None:
    reaper = Reaper()
    reaper.open()
    exit_, process = Exit(), OnWord(7)
    reaper.track(process.pid, exit_)
    with traced(process.pid):
        process.exit()
        await exit_.status()
    reaper.close()
    assert not is_zombie(process.pid)
