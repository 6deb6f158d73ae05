"""The runtime's commands that a shim had under way when it died."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

from shimpy.core.runtime.environment import SHIM
from shimpy.core.runtime.marked import kill_group, marked, words

# What is undone is killed. The others complete: a start that is killed takes the container's init with it.
_KILLED: Final = frozenset({b"create", b"exec", b"state"})

# The options before a command's name, as `Runc` gives them.
_BEFORE_NAME: Final = [b"--log-format", b"json"]

# Seconds for a command to complete, and for what was killed to die.
_COMPLETION: Final = 10.0
_DEATH: Final = 2.0

_log = logging.getLogger(__name__)


async def end_commands(marker: str) -> None:
    """Returns when no command is under way any more: creates and execs are killed, others complete.

    Args:
        marker: in the environment of the commands.
    """
    timeout = _COMPLETION
    while found := list(marked(SHIM, marker)):
        try:
            for pid, pidfd in found:
                if timeout <= 0 or _name(pid) in _KILLED:
                    kill_group(pid, pidfd)
            dead = await _wait_dead([pidfd for _, pidfd in found], timeout if timeout > 0 else _DEATH)
        finally:
            for _, pidfd in found:
                os.close(pidfd)
        if not dead and timeout <= 0:
            _log.warning("a command of the runtime that the shim before has started does not end")
            return
        if not dead:
            timeout = 0


def _name(pid: int) -> bytes:
    """Returns which command of the runtime a process is, or is about to be."""
    line = words(pid, "cmdline")
    for at in range(len(line) - 2):
        if line[at : at + 2] == _BEFORE_NAME:
            return line[at + 2]
    return b""


async def _wait_dead(pidfds: list[int], seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    alive = set(pidfds)
    done = asyncio.Event()

    def died(pidfd: int) -> None:
        loop.remove_reader(pidfd)
        alive.discard(pidfd)
        if not alive:
            done.set()

    for pidfd in pidfds:
        loop.add_reader(pidfd, died, pidfd)
    try:
        async with asyncio.timeout(seconds):
            await done.wait()
    except TimeoutError:
        return False
    finally:
        for pidfd in alive:
            loop.remove_reader(pidfd)
    return True
