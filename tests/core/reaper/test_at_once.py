"""One owner of wait() for each child, with children of every kind at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.interpreters import environment, interpreters
from tests.support.leaks import zombies
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("version", interpreters())
@pytest.mark.parametrize(
    "how",
    [
        ["--orphans", str(rounds(150, 5000)), "--watcher", "PidfdChildWatcher"],
        ["--orphans", str(rounds(100, 5000)), "--watcher", "ThreadedChildWatcher"],
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
            *("--asyncio", str(rounds(40, 2000)), "--tracked", str(rounds(20, 1000)), *how),
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
from shimpy.core.reaper import Reaper

async def main():
    reaper = Reaper(sweep_orphans=True)
    reaper.open()
    over = {}
    with reaper.spawning():
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
