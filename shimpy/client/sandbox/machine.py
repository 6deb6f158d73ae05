"""What this machine's cgroups can limit."""

from __future__ import annotations

import functools
import glob
import os

from shimpy.core.cgroup.hierarchies import UNIFIED, mounts


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
