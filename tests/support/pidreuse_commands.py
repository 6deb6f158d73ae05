"""What becomes of commands when their pids are given out again; for test_pid_reuse.

A program for a pid namespace of its own; it prints what it has found as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from shimpy.core.reaper import Reaper, procfs
from shimpy.core.reaper.command import Command
from tests.support.pidreuse import waited_for
from tests.support.pids import Stranger, take, untouched
from tests.support.telling import spawn_telling


async def kill_command(reaper: Reaper) -> dict[str, Any]:
    """A command is killed that has just died, and was waited for elsewhere."""
    process = await _gone(reaper)
    take(process.pid)
    await reaper.kill(process)
    return {"code": process.returncode, "untouched": untouched(process.pid)}


async def wait_for_command(reaper: Reaper) -> dict[str, Any]:
    """Its pid is that of a child of this program that has died too, and is waited for later."""
    process = await _gone(reaper)
    take(process.pid, status=9)
    code = await reaper.wait(process)
    return {"code": code, "waited": waited_for(process.pid)}


async def wait_for_a_group(reaper: Reaper) -> dict[str, Any]:
    """The pid of a command that has failed is a new group's, in which a child of this program has died."""
    process = reaper.spawn("false", process_group=0)
    code = await reaper.wait(process)
    ended = procfs.now()
    while procfs.now() == ended:
        time.sleep(0.001)
    take(process.pid)
    while os.getpgid(process.pid) != process.pid:
        time.sleep(0.001)
    member = os.fork()
    if member == 0:
        os.setpgid(0, process.pid)
        os._exit(9)
    os.waitid(os.P_PID, member, os.WEXITED | os.WNOWAIT)
    await reaper.wait(reaper.spawn("true"))
    return {"code": code, "waited": waited_for(member)}


_HEEDLESS = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
pid = os.fork()
if pid:
    os.write(1, b"%d\\n" % pid)
time.sleep(1000)
"""


async def kill_command_whose_child_is_gone(reaper: Reaper) -> dict[str, Any]:
    """A command is killed; its child ends once it is listed, and the pid is then a stranger's."""
    strangers = Stranger()
    process, told = spawn_telling(reaper, sys.executable, "-I", "-S", "-c", _HEEDLESS)
    with told:
        child = int(told.readline())
    real, taken = os.pidfd_open, False

    def late(pid: int, flags: int = 0) -> int:
        nonlocal taken
        if pid == child and not taken:
            taken = True
            os.kill(child, signal.SIGKILL)
            while os.path.exists(f"/proc/{child}"):
                time.sleep(0.001)
            strangers.take(child)
        return real(pid, flags)

    setattr(os, "pidfd_open", late)  # noqa: B010
    await reaper.kill(process)
    return {"taken": taken, "code": process.returncode, "untouched": untouched(child)}


async def _gone(reaper: Reaper) -> Command:
    process = reaper.spawn("sleep", "1000000", process_group=0)
    os.kill(process.pid, signal.SIGKILL)
    # As a program does that waits for whatever ends; this loop is to learn of it later.
    os.waitpid(process.pid, 0)
    return process


async def with_a_reaper(scenario: Callable[[Reaper], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Runs a scenario with a reaper."""
    reaper = Reaper()
    reaper.open()
    try:
        return await scenario(reaper)
    finally:
        reaper.close()


def main() -> None:
    """Runs it as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario")
    scenario = globals()[parser.parse_args().scenario]
    print(json.dumps(asyncio.run(with_a_reaper(scenario))))


if __name__ == "__main__":
    main()
