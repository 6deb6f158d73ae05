"""Processes that were started with a mark in their environment: the runtime's commands, and what they start.

Nothing in a container has one: a runtime gives its processes the bundle's environment alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator


def marked(variable: str, value: str) -> Iterator[tuple[int, int]]:
    """Yields the pid of each process that has the mark, but for this one, and a pidfd that is the caller's.

    Args:
        variable: of the environment.
        value: of the variable.
    """
    mark = f"{variable}={value}".encode()
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == own:
            continue
        try:
            pidfd = os.pidfd_open(int(entry))
        except OSError:
            continue
        # Read once its pidfd is open: it is the environment of the pidfd's process, or that one is dead.
        if mark in words(int(entry), "environ"):
            yield int(entry), pidfd
        else:
            os.close(pidfd)


def words(pid: int, file: str) -> list[bytes]:
    """Returns what a process was started with; nothing of a zombie, or one that is gone or not ours.

    Args:
        pid: of the process.
        file: `environ` or `cmdline`.
    """
    try:
        with open(f"/proc/{pid}/{file}", "rb") as read:
            return read.read().split(b"\0")
    except OSError:
        return []


def kill_group(pid: int, pidfd: int) -> None:
    """Kills a process, and its helpers if it leads a group, as each command of a runtime does."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            # Stopped, it does not end by itself, and the number stays its group's.
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            os.killpg(pid, signal.SIGKILL)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
