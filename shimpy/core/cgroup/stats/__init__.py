"""What a container uses, read from its cgroups.

Numbers are as the kernel has them; `max` is 2**64 - 1. The names are those of containerd's messages,
io.containerd.cgroups.v1.Metrics and .v2.Metrics, which know fields for networks and sleeping tasks too
that no cgroup counts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from shimpy.core.cgroup.hierarchies import PROC, UNIFIED, Hierarchies, StrPath, memberships
from shimpy.errors import NotFoundError

if TYPE_CHECKING:
    from shimpy.core.cgroup.stats import v1, v2

# The controllers of version 1 that count something.
CONTROLLERS: Final = ("pids", "cpu", "cpuacct", "memory", "blkio", "hugetlb", "rdma")

_CGROUPS: Final = "/sys/fs/cgroup"


class StatsReader:
    """Reads what a container uses, again and again.

    Where its cgroups are is found out once, while it lives: the table of mounts is most of the work.
    They are read for as long as they are there, also after its death.

    Args:
        directories: of its cgroups, by controller; of the one of version 2 by UNIFIED, which then is the
            only one that is read.
    """

    def __init__(self, directories: Mapping[str, str]) -> None:
        self.directories = dict(directories)

    @classmethod
    def of(cls, pid: int, *, proc: StrPath = PROC, hierarchies: Hierarchies | None = None) -> StatsReader:
        """Returns what reads the cgroups of a process.

        It is version 2 if the place of cgroups shows that: on a machine that has both (the hybrid set-up
        of systemd) it is version 1, which is what containerd and its clients take such a machine for.

        Args:
            pid: a live process, the container's init.
            proc: where procfs is.
            hierarchies: what `Hierarchies(proc)` has found out already.
        """
        hierarchies = hierarchies or Hierarchies(proc)
        paths = memberships(pid, proc)
        # Every cgroup of version 2 has that file, and nothing else does.
        unified = os.path.exists(os.path.join(_CGROUPS, "cgroup.controllers"))
        found = {}
        for controller in (UNIFIED,) if unified else CONTROLLERS:
            places = hierarchies.directories(controller, paths[controller]) if controller in paths else []
            # A mount may be covered by another one.
            for place in places:
                if os.path.exists(os.path.join(place, "cgroup.procs")):
                    found[controller] = place
                    break
        return cls(found)

    def read(self) -> v1.Metrics | v2.Metrics:
        """Reads everything once.

        Raises:
            NotFoundError: the cgroups are gone, or there were none.
        """
        # Not before they are needed: their classes take a fifth of the time of all imports to make.
        from shimpy.core.cgroup.stats import v1, v2

        unified = self.directories.get(UNIFIED)
        metrics = v2.read_metrics(unified) if unified is not None else v1.read_metrics(self.directories)
        if metrics is None:
            raise NotFoundError("the container's cgroup is gone, and with it what it counted")
        return metrics
