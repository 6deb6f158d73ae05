"""What this machine's cgroups can limit, and which of its files are network namespaces."""

from __future__ import annotations

import fcntl
import functools
import glob
import os
import stat
from typing import Final

from shimpy.core.cgroup.hierarchies import UNIFIED, mounts

# ioctl_nsfs(2).
_NS_GET_NSTYPE: Final = 0xB703
_CLONE_NEWNET: Final = 0x40000000


def is_network_namespace(path: str) -> bool:
    """Returns whether a file is a network namespace, such as `/proc/PID/ns/net` (namespaces(7))."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
        finally:
            os.close(fd)
    except OSError:
        return False


@functools.cache
def is_unified() -> bool:
    """Returns whether version 2 of cgroups is all that there is (cgroups(7))."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


@functools.cache
def has_swap_limits() -> bool:
    """Returns whether swap is counted: on version 1 a kernel may be built, or started, without."""
    for mount in mounts():
        if "memory" in mount.controllers:
            return os.path.exists(f"{mount.point}/memory.memsw.limit_in_bytes")
    for mount in mounts():
        if UNIFIED in mount.controllers:
            below = glob.glob(f"{glob.escape(mount.point)}/*/memory.max")
            return not below or os.path.exists(f"{os.path.dirname(below[0])}/memory.swap.max")
    return False
