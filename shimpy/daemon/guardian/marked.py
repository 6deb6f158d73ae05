"""Kills what a program has started beside containers: shims, and commands of the runtime."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable

from shimpy.core.registry import ProcessIdentity
from shimpy.core.runtime.environment import PROGRAM
from shimpy.core.runtime.marked import kill_group, marked

# Seconds for what was killed to be dead. What is in an uninterruptible sleep is not waited for any longer.
_DEATH = 2.0


def kill_marked(name: str, more: Iterable[ProcessIdentity] = ()) -> bool:
    """Kills every process that was started with a program's mark, and returns when there is none.

    The commands that a shim has under way have the mark too, and so has what it forks while it is being
    killed.

    Args:
        name: of the program's directory.
        more: processes of the program that have no mark.

    Returns:
        Whether all are dead.
    """
    end = time.monotonic() + _DEATH
    found = [pidfd for process in more if (pidfd := process.open()) is not None]
    for pidfd in found:
        _kill(pidfd)
    while True:
        for pid, pidfd in marked(PROGRAM, name):
            found.append(pidfd)
            kill_group(pid, pidfd)
        if not found:
            return True
        dead = _wait_dead(found, end)
        for pidfd in found:
            os.close(pidfd)
        if not dead:
            return False
        found = []


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _wait_dead(pidfds: list[int], end: float) -> bool:
    poller = select.poll()
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    left = len(pidfds)
    while left and (wait := end - time.monotonic()) > 0:
        for pidfd, _ in poller.poll(wait * 1000):
            poller.unregister(pidfd)
            left -= 1
    return not left
