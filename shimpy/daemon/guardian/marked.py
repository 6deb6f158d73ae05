"""Kills what a program has started beside containers: shims, and commands of the runtime."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator

from shimpy.core.registry import ProcessIdentity
from shimpy.core.runtime.environment import PROGRAM

# Seconds for what was killed to be dead. What is in an uninterruptible sleep is not waited for any longer.
_DEATH = 2.0


def kill_marked(name: str, more: Iterable[ProcessIdentity] = ()) -> bool:
    """Kills every process that was started with a program's mark, and returns when there is none.

    The commands that a shim has under way have the mark too, and so has what it forks while it is being
    killed. Nothing in a container has: a runtime gives its processes the bundle's environment alone.

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
        for pid, pidfd in _marked(name):
            found.append(pidfd)
            _kill_group(pid, pidfd)
        if not found:
            return True
        dead = _wait_dead(found, end)
        for pidfd in found:
            os.close(pidfd)
        if not dead:
            return False
        found = []


def _marked(name: str) -> Iterator[tuple[int, int]]:
    mark = f"{PROGRAM}={name}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        try:
            pidfd = os.pidfd_open(int(entry))
        except OSError:
            continue
        # Read once its pidfd is open: it is the environment of the pidfd's process, or that one is dead.
        if mark in _environment(entry):
            yield int(entry), pidfd
        else:
            os.close(pidfd)


def _environment(pid: str) -> list[bytes]:
    """Returns what a process was started with; nothing of a zombie, or one that is gone or not ours."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _kill_group(pid: int, pidfd: int) -> None:
    """Kills a process, and its helpers if it leads a group, as each command of a runtime does."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            # Stopped, it does not end by itself, and the number stays its group's.
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            os.killpg(pid, signal.SIGKILL)
        _kill(pidfd)


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
