"""What the reaper changes in the process, and puts back."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from shimpy.core.reaper import Reaper
from shimpy.errors import FailedPreconditionError
from tests.support.forks import Exit, exits, fork, is_subreaper, sleeps
from tests.support.leaks import alive

pytestmark = pytest.mark.anyio

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


async def test_it_is_a_subreaper_while_it_is_open() -> None:
    assert not is_subreaper()
    first, second = Reaper(), Reaper()
    first.open()
    first.open()
    second.open()
    assert is_subreaper()
    first.close()
    first.close()
    assert is_subreaper()
    second.close()
    assert not is_subreaper()


async def test_who_was_a_subreaper_before_stays_one() -> None:
    assert _libc.prctl(36, ctypes.c_ulong(1), 0, 0, 0) == 0
    try:
        reaper = Reaper()
        reaper.open()
        reaper.close()
        assert is_subreaper()
    finally:
        _libc.prctl(36, ctypes.c_ulong(0), 0, 0, 0)


@pytest.fixture
def ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("sweep", [False, True])
async def test_sigchld_that_is_ignored_is_heeded_meanwhile(ignored: None, *, sweep: bool) -> None:
    reaper = Reaper(sweep_orphans=sweep)
    reaper.open()
    exit_ = Exit()
    with reaper.spawning():
        reaper.track(fork(exits(6)), exit_)
    assert await exit_.status() == 6
    reaper.close()


async def test_the_last_of_several_puts_it_back(ignored: None) -> None:
    first, second = Reaper(), Reaper()
    first.open()
    second.open()
    first.close()
    exit_ = Exit()
    with second.spawning():
        second.track(fork(exits(6)), exit_)
    assert await exit_.status() == 6
    second.close()


async def test_a_handler_of_the_programs_own_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, _frame: heard.append(number))
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        for sweep in (False, True):
            reaper = Reaper(sweep_orphans=sweep)
            reaper.open()
            reaper.close()
            assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_no_sigchld_comes_while_its_handler_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter would complain: "Signal 17 ignored due to race condition"."""
    loop = asyncio.get_running_loop()
    remove, caught = loop.remove_signal_handler, []

    def note(number: int) -> bool:
        status = Path("/proc/self/status").read_text()
        mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        caught.append(bool(mask & 1 << number - 1))
        return remove(number)

    monkeypatch.setattr(loop, "remove_signal_handler", note)
    reaper = Reaper(sweep_orphans=True)
    reaper.open()
    reaper.close()
    assert caught == [False]


async def test_close_lets_go_of_the_processes() -> None:
    reaper = Reaper()
    reaper.open()
    exit_ = Exit()
    child = reaper.track(fork(sleeps), exit_)
    release = reaper.claim(lambda _pid: True, watch=True)
    reaper.close()
    release()
    child.kill()
    assert alive(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    assert exit_.statuses == []
    assert child.exit_status is None


async def test_it_can_be_opened_again() -> None:
    reaper = Reaper(sweep_orphans=True)
    for status in (1, 2):
        reaper.open()
        exit_ = Exit()
        with reaper.spawning():
            reaper.track(fork(exits(status)), exit_)
        assert await exit_.status() == status
        reaper.close()


def in_thread(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs an event loop of its own in another thread."""
    results: list[T | BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def test_a_loop_outside_of_the_main_thread_tracks_too() -> None:
    async def main() -> int:
        reaper = Reaper()
        reaper.open()
        exit_ = Exit()
        # Not a fork: this process has threads.
        process = subprocess.Popen(["sh", "-c", "exit 8"])
        reaper.track(process.pid, exit_)
        status = await exit_.status()
        reaper.close()
        process.returncode = status
        return status

    assert in_thread(main) == 8


def test_outside_of_the_main_thread_nothing_is_swept() -> None:
    async def main() -> None:
        Reaper(sweep_orphans=True).open()

    with pytest.raises(FailedPreconditionError, match="main thread"):
        in_thread(main)


def test_outside_of_the_main_thread_sigchld_cannot_be_heeded(ignored: None) -> None:
    async def main() -> None:
        Reaper().open()

    with pytest.raises(FailedPreconditionError, match="SIGCHLD is ignored"):
        in_thread(main)
