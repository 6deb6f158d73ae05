"""What a configuration may want of the shim's own process; few do."""

from __future__ import annotations

import ctypes
import os
from typing import Final

# From <linux/prctl.h>.
_PR_SCHED_CORE: Final = 62
_PR_SCHED_CORE_CREATE: Final = 1
_PR_SCHED_CORE_SCOPE_PROCESS_GROUP: Final = 2


def join_cgroup(path: str) -> None:
    """Moves this process to a cgroup in every hierarchy of version 1 that has it, or in the only one.

    Args:
        path: of the cgroup, as /proc/PID/cgroup would have it.

    Raises:
        OSError: there is none, or the kernel refused.
    """
    from shimpy.core.cgroup.hierarchies import UNIFIED, mounts

    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    directories = [mount.directory(path) for mount in mounts() if (UNIFIED in mount.controllers) == unified]
    there = [
        directory
        for directory in dict.fromkeys(directories)
        if directory is not None and os.path.isdir(directory)
    ]
    if not there:
        raise FileNotFoundError(f"shim_cgroup: there is no cgroup {path!r}")
    for directory in there:
        with open(os.path.join(directory, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")


def join_cgroups_of(text: str) -> None:
    """Moves this process to the cgroups of another.

    Args:
        text: that one's /proc/PID/cgroup (cgroups(7)).

    Raises:
        OSError: the kernel refused.
    """
    from shimpy.core.cgroup.hierarchies import UNIFIED, mounts

    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(",") if controllers else [UNIFIED], path))
    directories: dict[str | None, None] = {}
    for mount in mounts():
        for controller in mount.controllers:
            if controller in paths:
                directories[mount.directory(paths[controller])] = None
    for directory in directories:
        if directory is not None:
            with open(os.path.join(directory, "cgroup.procs"), "w", encoding="ascii") as file:
                file.write("0")


def share_core() -> None:
    """Lets this process, and what it starts, share a core with no other process (core scheduling, prctl(2)).

    Raises:
        OSError: the kernel or the machine has none of that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # A process group of 0 is this process's own.
    numbers = (_PR_SCHED_CORE_CREATE, 0, _PR_SCHED_CORE_SCOPE_PROCESS_GROUP, 0)
    if libc.prctl(_PR_SCHED_CORE, *map(ctypes.c_ulong, numbers)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"core scheduling: {os.strerror(number)}")
