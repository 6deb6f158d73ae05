"""Who descends from whom, as /proc tells it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial

from shimpy import linux

_TICKS = os.sysconf("SC_CLK_TCK")

# Where in what `_stat` returns: proc_pid_stat(5) counts from 1, and the first two are not in it.
_STATE = 3 - 3
_FLAGS = 9 - 3
_START_TIME = 22 - 3
_EXIT_CODE = 52 - 3

# linux/sched.h
_PF_EXITING = 0x4
_PF_FORKNOEXEC = 0x40


def now() -> int:
    """Returns the time since boot in clock ticks, in which the kernel counts the start times of processes."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS // 1_000_000_000


def start_time(pid: int) -> int:
    """Returns when a process, running or a zombie, was started; see `now`.

    Raises:
        OSError: there is none of that pid.
    """
    return int(_stat(str(pid))[_START_TIME])


def has_execed(pid: int) -> bool:
    """Returns whether a process, running or a zombie, has called execve(2) since it was forked.

    The kernel keeps note of that itself (PF_FORKNOEXEC in linux/sched.h, 0x40 ever since; it is
    what acct(5) tells as AFORK), so no name nor command line that a program gives itself matters.
    False if there is none of that pid.
    """
    with contextlib.suppress(OSError):
        return not int(_stat(str(pid))[_FLAGS]) & _PF_FORKNOEXEC
    return False


def is_dying(pid: int) -> bool:
    """Returns whether a process is past its last instruction: dying, a zombie, or gone."""
    try:
        return all(int(fields[_FLAGS]) & _PF_EXITING for fields in _threads(pid).values())
    except OSError:
        return False


def is_dead(pid: int) -> bool:
    """Returns whether a process is a zombie with all its threads; False if it is gone, or cannot be read."""
    try:
        if _stat(str(pid))[_STATE] not in b"ZX":
            return False
        threads = _threads(pid)
        if any(fields[_STATE] not in b"ZX" for fields in threads.values()):
            return False
        # One of them may have made another after the list was read and before it died.
        return threads.keys() >= {*os.listdir(f"/proc/{pid}/task")}
    except OSError:
        return False


def wait_status(pid: int) -> int:
    """Returns how a zombie has ended, as wait(2) would say.

    Raises:
        PermissionError: the kernel tells only who may trace it (proc_pid_stat(5), ptrace(2)).
        OSError: there is none of that pid.
    """
    # In the field itself, 0 stands for that, too. A zombie has no program, and a reader with the permission
    # sees that.
    with contextlib.suppress(FileNotFoundError):
        os.readlink(f"/proc/{pid}/exe")
    return int(_stat(str(pid))[_EXIT_CODE])


def is_below(pid: int) -> bool:
    """Returns whether a process, running or a zombie, is in a pid namespace below our own."""
    return _pid_namespaces(pid) > _pid_namespaces(os.getpid())


def _pid_namespaces(pid: int) -> int:
    """Returns in how many pid namespaces a process has a pid, from that of /proc on (proc_pid_status(5))."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"NSpid:"):
                return len(line.split()) - 1
    return 0


def _stat(path: str) -> list[bytes]:
    """Returns the fields of a stat file below /proc, from the third on (proc_pid_stat(5))."""
    text = linux.read_file(f"/proc/{path}/stat", at_once=True)
    # The second field is the program's name, which may hold anything.
    return text.rpartition(b")")[2].split()


def _threads(pid: int) -> dict[str, list[bytes]]:
    """Returns the `_stat` of each thread of a process; none if it is gone.

    Raises:
        OSError: /proc cannot be read.
    """
    found: dict[str, list[bytes]] = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[thread] = _stat(f"{pid}/task/{thread}")
    return found


def children(pid: int) -> list[int]:
    """Returns the children of a process, zombies too; none if the kernel does not tell.

    A kernel that was built without CONFIG_PROC_CHILDREN does not.
    """
    found: list[int] = []
    directory = f"/proc/{pid}/task"
    with contextlib.suppress(OSError):
        for thread in os.listdir(directory):
            with contextlib.suppress(OSError), open(f"{directory}/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def members(group: int) -> list[int]:
    """Returns which of our own children, zombies too, are in a process group."""
    found = []
    for pid in children(os.getpid()):
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group:
                found.append(pid)
    return found


async def stop_descent(held: dict[int, int]) -> None:
    """Stops a process with its group and all that descends from it, so that none can start anything more.

    What left the group and whose parent has died is not found. What cannot be stopped within a
    tenth of a second (in a frozen cgroup, asleep in the kernel) may have children that are not.

    Args:
        held: a pidfd of the process, with its pid: a child of ours that leads a process group and
            has not been waited for; that may happen at any time. Takes those of all the others, to
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
    families.append((leader_fd, partial(members, leader)))
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


def _running(held: dict[int, int]) -> bool:
    for pid in held.values():
        with contextlib.suppress(OSError):
            if any(fields[_STATE] not in b"TtZX" for fields in _threads(pid).values()):
                return True
    return False


def is_there(pidfd: int) -> bool:
    """Returns whether a process has not been waited for, so that its pid cannot be reused."""
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
