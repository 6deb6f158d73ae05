"""Who descends from whom, as /proc tells it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial

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


def process_name(pid: int) -> bytes:
    """Returns the name of a process, running or a zombie (proc_pid_comm(5)); empty if there is none."""
    return _told(pid, "comm")


def command_line(pid: int) -> bytes:
    """Returns the command line of a process (proc_pid_cmdline(5)); empty once it is dying, dead or gone."""
    return _told(pid, "cmdline")


def _told(pid: int, what: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{what}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def is_runtime_helper(pid: int) -> bool:
    """Returns whether a process, running or a zombie, goes by a name that runc gives its helpers.

    While it sets a process up runc calls it `runc:[2:INIT]` and the like (nsexec.c); nobody but
    another runc is ever told of one, so nobody else waits for it.
    """
    return process_name(pid).startswith(b"runc:[")


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


async def stop_descent(held: dict[int, int]) -> None:
    """Stops a process with its group and all that descends from it, so that none can start anything more.

    What left the group and whose parent has died is not found. What cannot be stopped within a
    tenth of a second (in a frozen cgroup, asleep in the kernel) may have children that are not.

    Args:
        held: a pidfd of the process, with its pid: a child of ours that leads a process group and
            has not been waited for; that may be done meanwhile. Takes those of all the others, to
            be closed by the caller. None is of a process that only took over a pid.
    """
    for pidfd in held:
        _stop(pidfd)
    end = time.monotonic() + 0.1
    while True:
        running = _running(held)  # asked first: what was stopped by then has no child after
        if not (_find_more(held) or running) or time.monotonic() > end:
            return
        await asyncio.sleep(0.001)


def close(held: Iterable[int]) -> None:
    """Closes pidfds."""
    for pidfd in held:
        os.close(pidfd)


def _find_more(held: dict[int, int]) -> bool:
    """Stops, and adds to those held, their children and the group; says whether there were any."""
    known = len(held)
    families: list[tuple[int, Callable[[], list[int]]]] = [
        (pidfd, partial(children, pid)) for pidfd, pid in held.items()
    ]
    leader_fd, leader = next(iter(held.items()), (-1, 0))
    families.append((leader_fd, partial(_adopted, leader)))
    for parent_fd, family in families:  # grows while it is walked
        found = _hold(pid for pid in family() if pid not in held.values())
        # Who is listed again, after its pidfd was opened, is the pidfd's process; so is its
        # parent the one it was, if it has not been reaped by now.
        listed = set(family()) if found and is_there(parent_fd) else set()
        close(pidfd for pidfd, pid in found.items() if pid not in listed)
        for pidfd, pid in found.items():
            if pid in listed:
                _stop(pidfd)
                held[pidfd] = pid
                families.append((pidfd, partial(children, pid)))
    return len(held) > known


def _adopted(group: int) -> list[int]:
    """Returns which of our own children are in a process group, because their parent has died."""
    found = []
    for pid in children(os.getpid()):
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group:
                found.append(pid)
    return found


def _running(held: dict[int, int]) -> bool:
    return any(state not in "TtZX" for pid in held.values() for state in _states(pid))


def _states(pid: int) -> list[str]:
    """Returns what the threads of a process are doing, as letters (proc_pid_stat(5))."""
    found: list[str] = []
    folder = f"/proc/{pid}/task"
    with contextlib.suppress(OSError):
        for thread in os.listdir(folder):
            with contextlib.suppress(OSError), open(f"{folder}/{thread}/stat", "rb") as file:
                found.append(file.read().rpartition(b")")[2].split()[0].decode())
    return found


def is_there(pidfd: int) -> bool:
    """Returns whether a process has not been waited for, so that nobody else can have its pid."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    return True


def _stop(pidfd: int) -> None:
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)


def _hold(pids: Iterable[int]) -> dict[int, int]:
    held: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            held[os.pidfd_open(pid)] = pid
    return held
