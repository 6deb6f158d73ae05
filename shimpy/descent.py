"""Who descends from whom, as /proc tells it."""

from __future__ import annotations

import contextlib
import os
import signal
import time

_TICKS = os.sysconf("SC_CLK_TCK")


def now() -> int:
    """Returns the time since boot in clock ticks, in which the kernel tells when a process was born."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS // 1_000_000_000


def born(pid: int) -> int:
    """Returns when a process, running or a zombie, was born; see `now`.

    Raises:
        OSError: there is none of that pid.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The second field is the program's name, which may hold anything (proc_pid_stat(5)).
        return int(file.read().rpartition(b")")[2].split()[19])


def children(pid: int) -> list[int]:
    """Returns the children of a process, zombies too; none if the kernel does not tell.

    A kernel that was built without CONFIG_PROC_CHILDREN does not.
    """
    found: list[int] = []
    folder = f"/proc/{pid}/task"
    with contextlib.suppress(OSError):
        for thread in os.listdir(folder):
            with contextlib.suppress(OSError), open(f"{folder}/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def hold_descendants(pid: int) -> dict[int, int]:
    """Returns pidfds of all that descends from a process, with the pid of each; to be closed by the caller.

    None of them is a process that only took the pid of one. What has a parent outside of this
    descent, because its own parent has died, is not found.

    Args:
        pid: a process whose pid cannot be given out again meanwhile, as that of a child that is
            not waited for.
    """
    held: dict[int, int] = {}
    parents: list[tuple[int, int | None]] = [(pid, None)]
    for parent, parent_fd in parents:  # grows while it is walked
        found = _hold(children(parent))
        # What is listed again, after its pidfd was opened, is the pidfd's process; so is its
        # parent the one it was, if it has not been reaped by now.
        real = set(children(parent)) if _is_there(parent_fd) else set()
        for pidfd, child in found.items():
            if child in real:
                held[pidfd] = child
                parents.append((child, pidfd))
            else:
                os.close(pidfd)
    return held


def _hold(pids: list[int]) -> dict[int, int]:
    held: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            held[os.pidfd_open(pid)] = pid
    return held


def _is_there(pidfd: int | None) -> bool:
    if pidfd is not None:
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except OSError:
            return False
    return True
