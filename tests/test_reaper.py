"""One owner of wait() for each child, whatever else the process does."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from shimpy.errors import FailedPreconditionError, InternalError
from shimpy.reaper import LOST_STATUS, Reaper, descent

from .support.interpreters import environment, interpreters
from .support.leaks import alive, children, descriptors, eventually, zombies
from .support.rounds import rounds

pytestmark = pytest.mark.anyio

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def is_subreaper() -> bool:
    value = ctypes.c_int()
    assert _libc.prctl(37, ctypes.byref(value), 0, 0, 0) == 0  # PR_GET_CHILD_SUBREAPER
    return bool(value.value)


def fork(child: Callable[[], object]) -> int:
    """Forks; the child does what it is given and never comes back."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            child()
        os._exit(99)
    return pid


def exits(status: int) -> Callable[[], None]:
    return lambda: os._exit(status)


def sleeps() -> None:
    os.closerange(0, 1024)
    time.sleep(1000)


def orphan(child: Callable[[], object]) -> int:
    """Has a child fork another and end, and returns the pid of the other, which becomes ours."""
    read, write = os.pipe()

    def parent() -> None:
        os.write(write, str(fork(child)).encode())
        os._exit(0)

    pid = fork(parent)
    os.waitpid(pid, 0)
    os.close(write)
    with open(read, "rb") as told:
        return int(told.read())


def is_zombie(pid: int) -> bool:
    return pid in zombies()


class Exit:
    """What the reaper calls, and how often."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self._told = asyncio.Event()

    def __call__(self, status: int) -> None:
        self.statuses.append(status)
        self._told.set()

    async def status(self) -> int:
        async with asyncio.timeout(20):
            await self._told.wait()
        assert len(self.statuses) == 1
        return self.statuses[0]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Everything that the reaper may change, and what it may leave."""
    before = (is_subreaper(), signal.getsignal(signal.SIGCHLD), sorted(descriptors().values()))
    yield
    left = children()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert left == {}
    assert (is_subreaper(), signal.getsignal(signal.SIGCHLD), sorted(descriptors().values())) == before


@pytest.fixture
async def sweeping() -> AsyncIterator[Reaper]:
    reaper = Reaper(sweep_orphans=True)
    reaper.open()
    yield reaper
    reaper.close()


@pytest.fixture
async def embedded() -> AsyncIterator[Reaper]:
    reaper = Reaper()
    reaper.open()
    yield reaper
    reaper.close()


@pytest.fixture(params=["sweeping", "embedded"])
def reaper(request: pytest.FixtureRequest) -> Reaper:
    found: Reaper = request.getfixturevalue(request.param)
    return found


# Tracked processes.


@pytest.mark.parametrize("status", [0, 7, 255])
async def test_a_tracked_process_has_the_exit_code_it_ended_with(reaper: Reaper, status: int) -> None:
    exit_ = Exit()
    with reaper.window():
        child = reaper.track(fork(exits(status)), exit_)
    assert await exit_.status() == status
    assert child.exit_status == status


async def test_one_that_a_signal_ended_has_128_more(reaper: Reaper) -> None:
    exit_ = Exit()
    with reaper.window():
        child = reaper.track(fork(sleeps), exit_)
    assert child.exit_status is None
    child.kill(signal.SIGTERM)
    assert await exit_.status() == 128 + signal.SIGTERM
    child.kill()


async def test_one_that_stops_and_goes_on_has_not_ended(reaper: Reaper) -> None:
    exit_ = Exit()
    with reaper.window():
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
    with reaper.window():
        pid = fork(exits(3))
        await eventually(lambda: is_zombie(pid))
        child = reaper.track(pid, exit_)
        assert exit_.statuses == []
        assert child.exit_status is None
    assert await exit_.status() == 3


async def test_one_that_dies_before_its_pid_is_known_keeps_status_and_pid(reaper: Reaper) -> None:
    """However much is swept meanwhile."""
    exits_ = {}
    with reaper.window():
        pids = [orphan(exits(number)) for number in range(20)]
        await eventually(lambda: set(pids) <= set(zombies()))
        for _ in range(3):
            process = await reaper.spawn("true")
            await reaper.wait(process)
        for number, pid in enumerate(pids):
            exits_[number] = Exit()
            reaper.track(pid, exits_[number])
    assert [await exits_[number].status() for number in range(20)] == list(range(20))


async def test_a_wrong_pid_is_refused(reaper: Reaper) -> None:
    gone = fork(exits(0))
    os.waitpid(gone, 0)
    exit_ = Exit()
    with reaper.window():
        tracked = reaper.track(fork(sleeps), exit_)
        spawned = await reaper.spawn("sleep", "1000")
    for pid, words in [
        (gone, "is not there"),
        (os.getpid(), "not a child"),
        (1, "not a child"),
        (tracked.pid, "known already"),
        (spawned.pid, "known already"),
        (2**22 + 1, "is not there"),
    ]:
        with pytest.raises(InternalError, match=words):
            reaper.track(pid, Exit())
    tracked.kill()
    spawned.kill()
    assert await exit_.status() == 137
    assert await reaper.wait(spawned) == -signal.SIGKILL


async def test_a_grandchild_is_not_a_child(reaper: Reaper) -> None:
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 1000 & echo $!; wait", stdout=asyncio.subprocess.PIPE
    )
    with reaper.window():
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
    with reaper.window():
        pid = fork(exits(3))
        reaper.track(pid, exit_)
        os.waitpid(pid, 0)
    assert await exit_.status() == LOST_STATUS
    assert "waited for by somebody else" in caplog.text


async def test_an_error_of_who_hears_of_an_exit_stops_nothing(sweeping: Reaper) -> None:
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))

    def fails(_status: int) -> None:
        raise ValueError("on_exit")

    exit_ = Exit()
    with sweeping.window():
        sweeping.track(fork(exits(0)), fails)
        sweeping.track(fork(exits(1)), exit_)
        orphan(exits(2))
    assert await exit_.status() == 1
    await eventually(lambda: not children())
    assert [str(context["exception"]) for context in heard] == ["on_exit"]


# Orphans.


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
    outer = sweeping.window()
    with outer:
        with sweeping.window():
            pid = orphan(exits(0))
            await eventually(lambda: is_zombie(pid))
        await sweeping.wait(await sweeping.spawn("true"))
        assert is_zombie(pid)
    assert not is_zombie(pid)


async def test_what_is_older_than_every_window_is_swept_all_the_same(sweeping: Reaper) -> None:
    """Or zombies would pile up as long as a runtime hangs."""
    pids = [orphan(sleeps) for _ in range(10)]
    youngest = max(descent.born(pid) for pid in pids)
    await eventually(lambda: descent.now() > youngest)
    with sweeping.window():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not children())


async def test_windows_that_overlap_without_end_starve_nobody(sweeping: Reaper) -> None:
    over = asyncio.Event()

    async def commands(delay: float) -> None:
        while not over.is_set():
            with sweeping.window():
                await asyncio.sleep(delay)

    busy = [asyncio.create_task(commands(0.03 + number / 1000)) for number in range(4)]
    await asyncio.sleep(0)
    most = 0
    for _ in range(rounds(200, 2000)):
        orphan(exits(0))
        await asyncio.sleep(0.001)
        most = max(most, len(zombies()))
    await eventually(lambda: not children())
    assert sweeping._orphans._windows
    over.set()
    await asyncio.gather(*busy)
    assert most < 150


async def test_asyncio_gets_the_status_of_what_it_spawned(reaper: Reaper) -> None:
    async def one(status: int) -> int:
        process = await reaper.spawn("sh", "-c", f"exit {status}")
        orphan(exits(0)) if reaper._sweeps else None
        return await reaper.wait(process)

    async with asyncio.timeout(30):
        assert await asyncio.gather(*map(one, range(40))) == list(range(40))
    await eventually(lambda: not children())


async def test_a_program_that_is_not_there(reaper: Reaper) -> None:
    with pytest.raises(FileNotFoundError):
        await reaper.spawn("/not/there")
    await eventually(lambda: not children())


# Commands that are killed.

_FAMILY = """
import os, sys, time
def child(*setups):
    pid = os.fork()
    if pid == 0:
        for setup in setups:
            setup()
        print(os.getpid(), flush=True)
        os.close(1)
        time.sleep(1000)
        os._exit(0)
def litter():
    if os.fork():
        os._exit(0)
child()
child(os.setsid)
child(os.setsid, child)
child(litter)
os.close(1)
time.sleep(1000)
"""


async def test_a_command_is_killed_with_all_that_it_has_started(reaper: Reaper) -> None:
    """Its children, those in a session of their own, theirs, and who in its group has lost its parent."""
    process = await reaper.spawn(
        sys.executable, "-I", "-S", "-c", _FAMILY, stdout=asyncio.subprocess.PIPE, process_group=0
    )
    assert process.stdout is not None
    pids = [int(await process.stdout.readline()) for _ in range(5)]
    await reaper.kill(process)
    assert process.returncode == -signal.SIGKILL
    await eventually(lambda: not any(map(alive, pids)) and not children())


async def test_a_command_that_is_forking_all_the_time_is_killed_whole(reaper: Reaper) -> None:
    fork = "if os.fork() == 0: os.setsid(); time.sleep(1000)"
    restless = f"import os, time\nwhile True:\n  {fork}\n  time.sleep(0.0005)"
    for _ in range(rounds(5, 100)):
        process = await reaper.spawn(sys.executable, "-I", "-S", "-c", restless, process_group=0)
        await eventually(lambda: len(descent.children(process.pid)) > 5)  # noqa: B023
        await reaper.kill(process)
        await eventually(lambda: not children())


async def test_killing_a_command_that_has_ended_reaches_nobody(reaper: Reaper) -> None:
    process = await reaper.spawn("true", process_group=0)
    await reaper.wait(process)
    await reaper.kill(process)


async def test_a_command_that_is_stopped_is_killed(reaper: Reaper) -> None:
    process = await reaper.spawn("sh", "-c", "kill -STOP $$", process_group=0)
    await eventually(lambda: children()[process.pid] == "T")
    await reaper.kill(process)
    assert process.returncode == -signal.SIGKILL


# In somebody's program.


async def test_the_programs_own_children_are_left_to_it(embedded: Reaper) -> None:
    """subprocess, asyncio, multiprocessing and os.fork, while tracked processes come and go beside them."""
    popen = [subprocess.Popen(["sh", "-c", f"exit {status}"]) for status in range(10)]
    forked = [fork(exits(status)) for status in range(10)]
    context = multiprocessing.get_context("fork")
    with pytest.MonkeyPatch.context() as patch:
        # In a process with threads Python 3.12 warns of any fork.
        patch.setattr("warnings.warn", lambda *_args, **_options: None)
        workers = [context.Process(target=os._exit, args=(status,)) for status in range(3)]
        for worker in workers:
            worker.start()
    own = [await asyncio.create_subprocess_exec("sh", "-c", f"exit {status}") for status in range(10)]
    release = embedded.claim(lambda _pid: False, watch=True)
    for status in range(10):
        exit_ = Exit()
        with embedded.window():
            embedded.track(orphan(exits(status)), exit_)
        assert await exit_.status() == status
    release()
    assert [one.wait() for one in popen] == list(range(10))
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in forked] == list(range(10))
    assert [await one.wait() for one in own] == list(range(10))
    for status, worker in enumerate(workers):
        worker.join()
        assert worker.exitcode == status
        worker.close()


async def test_a_claimed_orphan_is_reaped_and_nothing_else(embedded: Reaper) -> None:
    claimed: set[int] = set()
    release = embedded.claim(claimed.__contains__, watch=True)
    strangers = [fork(exits(5)) for _ in range(3)]
    claimed |= {orphan(exits(0)) for _ in range(10)}
    await eventually(lambda: not claimed & set(children()))
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in strangers] == [5, 5, 5]
    release()


async def test_a_claim_is_heeded_a_little_longer_than_it_is_held(embedded: Reaper) -> None:
    claimed: set[int] = set()
    release = embedded.claim(claimed.__contains__, watch=False)
    pid = orphan(sleeps)
    claimed.add(pid)
    os.kill(pid, signal.SIGKILL)
    release()
    await eventually(lambda: not children())
    await eventually(lambda: not embedded._orphans._claims)


async def test_a_claimed_orphan_that_was_born_in_a_window_waits_for_it(embedded: Reaper) -> None:
    release = embedded.claim(lambda _pid: True, watch=True)
    with embedded.window():
        pid = orphan(exits(4))
        await eventually(lambda: is_zombie(pid))
        await embedded.wait(await embedded.spawn("true"))
        assert is_zombie(pid)
        exit_ = Exit()
        embedded.track(pid, exit_)
    assert await exit_.status() == 4
    release()


# What it changes in the process.


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
    with reaper.window():
        reaper.track(fork(exits(6)), exit_)
    assert await exit_.status() == 6
    reaper.close()


async def test_the_last_of_several_puts_it_back(ignored: None) -> None:
    first, second = Reaper(), Reaper()
    first.open()
    second.open()
    first.close()
    exit_ = Exit()
    with second.window():
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
        with reaper.window():
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


# All of it at once.


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", interpreters())
@pytest.mark.parametrize(
    "how",
    [
        ["--orphans", str(rounds(500, 5000)), "--watcher", "PidfdChildWatcher"],
        ["--orphans", str(rounds(250, 5000)), "--watcher", "ThreadedChildWatcher"],
        ["--embedded"],
        ["--embedded", "--thread"],
    ],
    ids=["sweeping", "sweeping-beside-threads", "embedded", "embedded-in-a-thread"],
)
def test_children_of_every_kind_at_once(version: str, how: list[str]) -> None:
    """On each Python of this machine: 0 wrong, 0 left."""
    done = subprocess.run(
        [
            *(interpreters()[version], "-W", "error", "-m", "tests.support.reaping"),
            *("--asyncio", str(rounds(100, 2000)), "--tracked", str(rounds(40, 1000)), *how),
        ],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []


_HELD = """
import asyncio, os, sys, time
from shimpy.reaper import Reaper

async def main():
    reaper = Reaper(sweep_orphans=True)
    reaper.open()
    over = {}
    with reaper.window():
        for number in range(300):
            pid = os.fork()
            if pid == 0:
                sys.stdin.read()
                os._exit(number % 250)
            over[number] = asyncio.get_running_loop().create_future()
            reaper.track(pid, over[number].set_result)
    print("ready", flush=True)
    statuses = [await over[number] for number in range(300)]
    assert statuses == [number % 250 for number in range(300)], statuses
    reaper.close()

asyncio.run(main())
"""


def test_a_loop_that_was_held_up_for_long_has_lost_nobody(tmp_path: Path) -> None:
    """Three hundred die while the process is stopped, and their signals have merged into one."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    process.stdin.close()
    stopped = time.monotonic()
    while len(zombies(process.pid)) < 300 or time.monotonic() < stopped + rounds(1, 5):
        assert time.monotonic() < stopped + 30
        time.sleep(0.05)
    process.send_signal(signal.SIGCONT)
    assert process.wait(20) == 0
    process.stdout.close()
