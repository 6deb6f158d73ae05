"""Several reapers in one process: none takes for an orphan what another waits for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shimpy.core.reaper import Reaper, orphans, procfs
from shimpy.core.reaper.registry import Waited, registry
from tests.support.forks import Exit, exits, fork, is_zombie, orphan
from tests.support.leaks import children, eventually
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio


@pytest.fixture
async def greedy() -> AsyncIterator[Reaper]:
    """A reaper with a claim to every orphan there is."""
    reaper = Reaper()
    reaper.open()
    release = reaper.claim(lambda _pid: True, watch=True)
    yield reaper
    release()
    reaper.close()


@pytest.fixture(params=["greedy", "sweeping"])
def other(request: pytest.FixtureRequest) -> Reaper:
    found: Reaper = request.getfixturevalue(request.param)
    return found


async def _look_round(reaper: Reaper) -> None:
    await reaper.wait(reaper.spawn("true"))


async def test_what_one_tracks_no_other_reaps(greedy: Reaper, embedded: Reaper) -> None:
    for status in range(20):
        exit_ = Exit()
        with embedded.spawning():
            embedded.track(orphan(exits(status)), exit_)
        await _look_round(greedy)
        assert await exit_.status() == status


async def test_what_is_born_in_a_window_of_one_no_other_reaps(other: Reaper, embedded: Reaper) -> None:
    with embedded.spawning():
        pid = orphan(exits(4))
        await eventually(lambda: is_zombie(pid))
        await _look_round(other)
        assert is_zombie(pid)
    await eventually(lambda: not is_zombie(pid))


async def test_what_one_spawned_no_other_reaps(greedy: Reaper, embedded: Reaper) -> None:
    async def command(status: int) -> int:
        return await embedded.wait(embedded.spawn("sh", "-c", f"exit {status}"))

    commands = [asyncio.ensure_future(command(status)) for status in range(20)]
    for _ in range(20):
        await _look_round(greedy)
    assert await asyncio.gather(*commands) == list(range(20))


async def test_they_may_be_in_loops_of_different_threads(greedy: Reaper) -> None:
    wrong: list[object] = []

    async def track() -> None:
        reaper = Reaper()
        reaper.open()
        for number in range(rounds(25, 1000)):
            exit_, status = Exit(), number % 250
            with reaper.spawning():
                # Not a fork: this process has threads.
                process = subprocess.Popen(["sh", "-c", f"exit {status}"])
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                reaper.track(process.pid, exit_)
            process.returncode = await exit_.status()
            if process.returncode != status:
                wrong.append((process.returncode, status))
        reaper.close()

    def run() -> None:
        try:
            asyncio.run(track())
        except BaseException as error:  # noqa: BLE001 - told by the assertion
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        await _look_round(greedy)
    thread.join()
    assert wrong == []


async def test_a_claim_is_held_until_no_window_is_in_its_way(
    embedded: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long another call's runtime hangs."""
    monkeypatch.setattr(orphans, "PERIOD", 0.05)
    claimed: set[int] = set()
    other = Reaper()
    with other.spawning():
        claimed.add(orphan(exits(0)))
        embedded.claim(claimed.__contains__, watch=False)()
        await asyncio.sleep(0.3)
        assert embedded._orphans._claims
        assert {*children()} == claimed
    await eventually(lambda: not children())
    await eventually(lambda: not embedded._orphans._claims)


async def test_no_name_makes_a_child_somebodys(embedded: Reaper) -> None:
    """Such as the one that runc gives its helpers: the program's own children keep their statuses."""

    def rename() -> None:
        Path("/proc/self/comm").write_text("runc:[2:INIT]")
        os._exit(5)

    pid = fork(rename)
    await eventually(lambda: is_zombie(pid))
    await embedded.wait(embedded.spawn("false"))
    await embedded.wait(embedded.spawn("true"))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


async def test_the_oldest_window_counts(sweeping: Reaper) -> None:
    """An orphan of the first is not one of the second, and is left alone all the same."""
    first = sweeping.spawning()
    with first:
        pid = orphan(exits(0))
        await eventually(lambda: is_zombie(pid))
        await eventually(lambda: procfs.now() > procfs.start_time(pid))
        with sweeping.spawning():
            await _look_round(sweeping)
            assert is_zombie(pid)
    assert not is_zombie(pid)


async def test_a_process_that_is_forked_knows_none_of_it() -> None:
    """The lock, too, is free there, whoever of the other threads held it."""
    waited = Waited(os.getpid(), -1)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with registry.lock:
            held.set()
            release.wait()

    registry.add(waited)
    thread = threading.Thread(target=hold)
    with registry.spawning():
        thread.start()
        held.wait()
        pid = fork(lambda: os._exit(registry.knows(waited.pid) or registry.is_open_since(2**62)))
        release.set()
    thread.join()
    registry.discard(waited)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_pid_is_waited_for_once() -> None:
    first, second = Waited(os.getpid(), -1), Waited(os.getpid(), -1)
    assert registry.add(first)
    assert not registry.add(second)
    registry.discard(second)
    assert registry.knows(os.getpid())
    registry.discard(first)
    assert not registry.knows(os.getpid())


def test_a_pid_whose_process_is_gone_is_free() -> None:
    """Although its owner has not heard of that yet: it may be another's."""
    pid = fork(exits(0))
    waited = Waited(pid, os.pidfd_open(pid))
    assert registry.add(waited)
    os.waitpid(pid, 0)
    assert not registry.knows(pid)
    assert registry.add(Waited(pid, -1))
    registry.discard(waited)
    assert registry.knows(pid)
    registry.reset()
    os.close(waited.pidfd)
