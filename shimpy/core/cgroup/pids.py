"""How many processes and threads a container has, and may have (the kernel's cgroup-v1/pids.rst)."""

from __future__ import annotations

import os
from typing import NamedTuple

from shimpy.core.cgroup.hierarchies import PROC, UNIFIED, Hierarchies, StrPath, read


class PidsUsage(NamedTuple):
    """What counts against the limit of a cgroup: threads too, and zombies until they are waited for.

    Attributes:
        current: how many there are.
        limit: how many there may be.
    """

    current: int
    limit: int


def pids_usage(pid: int, *, proc: StrPath = PROC) -> PidsUsage | None:
    """Returns how far a live process's limit is used; None where there is none, or none can be seen.

    Args:
        pid: the process.
        proc: where procfs is.
    """
    hierarchies = Hierarchies(proc)
    for controller in ("pids", UNIFIED):
        if directory := hierarchies.find(pid, controller):
            current, limit = (read(os.path.join(directory, f"pids.{name}")) for name in ("current", "max"))
            if current.strip().isdigit() and limit.strip().isdigit():
                return PidsUsage(int(current), int(limit))
    return None
