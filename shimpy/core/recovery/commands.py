"""The runtime's commands that a shim had under way when it died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from typing import Final

from shimpy.core.runtime.environment import SHIM

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

    Nothing in a container has the marker: a runtime gives its processes the bundle's environment alone.

    Args:
        marker: in the environment of the commands.
    """
    patience = _COMPLETION
    while found := list(_marked(marker)):
        try:
            for pid, pidfd in found:
                if patience <= 0 or _name(pid) in _KILLED:
                    _kill_group(pid, pidfd)
            dead = await _wait_dead([pidfd for _, pidfd in found], patience if patience > 0 else _DEATH)
        finally:
            for _, pidfd in found:
                os.close(pidfd)
        if not dead and patience <= 0:
            _log.warning("a command of the runtime that the shim before has started does not end")
            return
        if not dead:
            patience = 0


def _marked(marker: str) -> Iterator[tuple[int, int]]:
    mark = f"{SHIM}={marker}".encode()
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == own:
            continue
        try:
            pidfd = os.pidfd_open(int(entry))
        except OSError:
            continue
        # Read once its pidfd is open: it is the environment of the pidfd's process, or that one is dead.
        if mark in _words(entry, "environ"):
            yield int(entry), pidfd
        else:
            os.close(pidfd)


def _name(pid: int) -> bytes:
    """Returns which command of the runtime a process is, or is about to be."""
    words = _words(str(pid), "cmdline")
    for at in range(len(words) - 2):
        if words[at : at + 2] == _BEFORE_NAME:
            return words[at + 2]
    return b""


def _words(pid: str, file: str) -> list[bytes]:
    """Returns what a process was started with; nothing of a zombie, or one that is gone or not ours."""
    try:
        with open(f"/proc/{pid}/{file}", "rb") as words:
            return words.read().split(b"\0")
    except OSError:
        return []


def _kill_group(pid: int, pidfd: int) -> None:
    """Kills a process, and its helpers if it leads a group, as each command of a runtime does."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            # Stopped, it does not end by itself, and the number stays its group's.
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            os.killpg(pid, signal.SIGKILL)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


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
