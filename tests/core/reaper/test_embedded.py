"""In somebody's program the reaper keeps its hands off the program's own children."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess

import pytest

from shimpy.core.reaper import Reaper, procfs
from tests.support.forks import Exit, exits, fork, is_zombie, orphan, sleeps
from tests.support.leaks import children, eventually
from tests.support.machine import lacking

pytestmark = pytest.mark.anyio


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
        with embedded.spawning():
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
    with embedded.spawning():
        pid = orphan(exits(4))
        await eventually(lambda: is_zombie(pid))
        await embedded.wait(embedded.spawn("true"))
        assert is_zombie(pid)
        exit_ = Exit()
        embedded.track(pid, exit_)
    assert await exit_.status() == 4
    release()


@pytest.mark.parametrize("status", [1, 255])
async def test_what_a_command_that_failed_left_in_its_group_is_reaped(embedded: Reaper, status: int) -> None:
    process = embedded.spawn("sh", "-c", f"sleep 0.05 & exit {status}", process_group=0)
    assert await embedded.wait(process) == status
    await eventually(lambda: not children())


async def test_what_it_left_in_a_pid_namespace_is_reaped(embedded: Reaper) -> None:
    """There a runtime's helper is that has left the group, and a container's init cannot end before it."""
    if lacks := lacking():
        pytest.skip(f"a pid namespace needs {lacks}")
    process = embedded.spawn("unshare", "--pid", "--fork", "setsid", "sleep", "1000", process_group=0)
    await eventually(lambda: any(os.getpgid(pid) == pid for pid in procfs.children(process.pid)))
    (pid,) = procfs.children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    await embedded.wait(process)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not children())
