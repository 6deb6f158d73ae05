"""What a child of the fork server would have inherited of who asks for it, and has of the server instead."""

from __future__ import annotations

import os
import resource

from shimpy import linux

_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})


class Inherited:
    """What a process passes on to its children, beside its memory, file descriptors, umask and signals.

    Args:
        pid: the process.

    Raises:
        OSError: it has gone, or is another user's.
    """

    def __init__(self, pid: int) -> None:
        self._limits = [resource.prlimit(pid, number) for number in _LIMITS]
        self._oom_score = linux.read_file(f"/proc/{pid}/oom_score_adj")
        self._affinity = os.sched_getaffinity(pid)
        self._nice = os.getpriority(os.PRIO_PROCESS, pid)
        self._cgroups = linux.read_file(f"/proc/{pid}/cgroup")

    def adopt(self, own: Inherited) -> None:
        """Gives all this to this process.

        Args:
            own: what this process has, as it was before the fork: what is equal is not touched.

        Raises:
            OSError: the kernel refused.
            ValueError: the kernel refused a limit.
        """
        for number, limits, has in zip(_LIMITS, self._limits, own._limits, strict=True):
            if limits != has:
                resource.setrlimit(number, limits)
        if self._oom_score != own._oom_score:
            with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
                file.write(self._oom_score)
        if self._affinity != own._affinity:
            os.sched_setaffinity(0, self._affinity)
        if self._nice != own._nice:
            os.setpriority(os.PRIO_PROCESS, 0, self._nice)
        if self._cgroups != own._cgroups:
            from shimpy.daemon.containerd.limits import join_cgroups_of

            join_cgroups_of(os.fsdecode(self._cgroups))
