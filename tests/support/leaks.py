"""What a process holds, read from /proc, so that a test can compare before and after."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.time_scale import scaled


def descriptors(pid: int | None = None) -> dict[int, str]:
    """Returns the open file descriptors of a process, by default of this one, and what each is."""
    directory = Path(f"/proc/{pid or os.getpid()}/fd")
    found = {}
    for name in os.listdir(directory):
        # The file descriptor of the listing itself is gone by now.
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(directory / name)
    return found


# A shim makes one when it first needs it.
FIRST_INOTIFY = Counter({"anon_inode:inotify": 1})


def opened_since(before: dict[int, str]) -> list[str]:
    """Returns what this process has open and had not before, but for a first inotify.

    What was closed meanwhile is somebody else's.
    """
    return [*(Counter(descriptors().values()) - Counter(before.values()) - FIRST_INOTIFY).elements()]


def threads(pid: int | None = None) -> int:
    """Returns the number of threads of a process, by default of this one."""
    return len(os.listdir(f"/proc/{pid or os.getpid()}/task"))


def _stat(pid: str) -> tuple[str, int]:
    """Returns the state letter and the parent of a process (proc(5))."""
    # Most tests read it for every process of the machine: pathlib would be a tenth of what they cost.
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        after_name = os.read(fd, 4096).rpartition(b")")[2].split(maxsplit=2)
    finally:
        os.close(fd)
    return after_name[0].decode(), int(after_name[1])


def children(pid: int | None = None) -> dict[int, str]:
    """Returns the children of a process, by default of this one, and the state letter of each (Z: zombie)."""
    parent = pid or os.getpid()
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, its_parent = _stat(name)
                # The guardian of a program that has made a container is there until the program's end.
                if its_parent == parent and not _is_guardian(name):
                    found[int(name)] = state
    return found


def _is_guardian(pid: str) -> bool:
    try:
        return b"\0shimpy.daemon.guardian.main\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def zombies(pid: int | None = None) -> list[int]:
    """Returns the children that a process, by default this one, has not waited for."""
    return [child for child, state in children(pid).items() if state == "Z"]


def alive(pid: int) -> bool:
    """Returns whether a process exists and is not a zombie."""
    try:
        return _stat(str(pid))[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pending(pid: int, number: int) -> bool:
    """Returns whether a signal has been sent to a process and not been taken yet (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) >> number - 1 & 1 for line in lines if line.startswith("ShdPnd"))


def memory(pid: int | None = None) -> int:
    """Returns the memory that a process has made, in bytes, by default of this one.

    The pages of files are left out: how many count as its own depends on who else has mapped them.
    """
    for line in Path(f"/proc/{pid or os.getpid()}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Anonymous in smaps_rollup")


def cpu_time(pid: int) -> float:
    """Returns the seconds of CPU that a process has used, its finished children's not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def eventually(condition: Callable[[], object], *, within: float = 30) -> None:
    """Waits until *condition()* is true, for things that the kernel does in its own time.

    Args:
        condition: asked every few milliseconds.
        within: seconds until the test fails, on a common machine.
    """
    within = scaled(within)
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within} s: {condition}"
        await asyncio.sleep(0.005)


@contextlib.contextmanager
def no_descriptor_left(*, but: int = 0) -> Iterator[None]:
    """Leaves so many file descriptors that can still be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(but + 1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free), hard))
    for fd in free:
        os.close(fd)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
