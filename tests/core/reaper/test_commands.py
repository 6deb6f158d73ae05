"""Commands that the reaper starts, and kills with all that they have started."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest

from shimpy.core.reaper import Reaper, procfs
from tests.support.leaks import alive, children, eventually
from tests.support.rounds import rounds
from tests.support.telling import spawn_telling

pytestmark = pytest.mark.anyio


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
    process, told = spawn_telling(reaper, sys.executable, "-I", "-S", "-c", _FAMILY)
    with told:
        pids = [int(told.readline()) for _ in range(5)]
    await reaper.kill(process)
    assert process.returncode == -signal.SIGKILL
    await eventually(lambda: not any(map(alive, pids)) and not children())


async def test_a_command_that_is_forking_all_the_time_is_killed_whole(reaper: Reaper) -> None:
    fork = "if os.fork() == 0: os.setsid(); time.sleep(1000)"
    restless = f"import os, time\nwhile True:\n  {fork}\n  time.sleep(0.0005)"
    for _ in range(rounds(5, 100)):
        process = reaper.spawn(sys.executable, "-I", "-S", "-c", restless, process_group=0)
        await eventually(lambda: len(procfs.children(process.pid)) > 5)  # noqa: B023
        await reaper.kill(process)
        await eventually(lambda: not children())


async def test_killing_a_command_that_has_ended_reaches_nobody(reaper: Reaper) -> None:
    process = reaper.spawn("true", process_group=0)
    await reaper.wait(process)
    await reaper.kill(process)


async def test_a_command_that_is_stopped_is_killed(reaper: Reaper) -> None:
    process = reaper.spawn("sh", "-c", "kill -STOP $$", process_group=0)
    await eventually(lambda: children()[process.pid] == "T")
    await reaper.kill(process)
    assert process.returncode == -signal.SIGKILL


async def test_a_command_that_could_not_be_killed_later_is_not_started(
    reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the one file descriptor is lacking by which that is done."""
    real = os.pidfd_open

    def lacking(pid: int, flags: int = 0) -> int:
        if sys._getframe(1).f_globals["__name__"] == "shimpy.core.reaper.command":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(pid, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", lacking)
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            reaper.spawn("sleep", "1000", process_group=0)
    assert children() == {}


async def test_who_was_not_found_in_time_is_killed_with_the_group(
    reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine so busy that nobody can be stopped while there is time for it."""

    async def finds_nobody(_held: dict[int, int]) -> None:
        pass

    monkeypatch.setattr(procfs, "stop_descent", finds_nobody)
    process, told = spawn_telling(reaper, "sh", "-c", "sleep 1000 >/dev/null & echo $!; wait")
    with told:
        pid = int(told.readline())
    await reaper.kill(process)
    await eventually(lambda: not alive(pid) and not children())
