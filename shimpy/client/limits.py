"""Limits on what a container may use, as the OCI runtime-spec has them."""

from __future__ import annotations

import math
import os
from typing import Any

# Microseconds over which CPU time is shared out; runc's own default, and docker's.
_PERIOD = 100_000

# PID_MAX_LIMIT of a 64-bit kernel (include/linux/threads.h), which is the highest that its pids.max takes.
_MOST_PIDS = 4 << 20


def resources(
    *,
    memory: int | None = None,
    memory_swap: int | None = None,
    cpus: float | None = None,
    pids: int | None = None,
) -> dict[str, Any]:
    """Returns limits as the OCI runtime-spec has them; see `shimpy.Container.update`.

    Raises:
        TypeError: one is of the wrong type.
        ValueError: there is none, or one is out of range.
    """
    limits: dict[str, Any] = {}
    if memory is None and memory_swap is not None:
        raise ValueError("memory_swap goes with memory, of which it is the sum with swap")
    if memory is not None:
        limit = _positive("memory", memory)
        swap = limit if memory_swap is None else memory_swap
        if swap != -1 and _positive("memory_swap", swap) < limit:
            raise ValueError(f"memory_swap must be at least memory, as it is the sum with swap, not {swap}")
        limits["memory"] = {"limit": limit, "swap": swap}
    if cpus is not None:
        if isinstance(cpus, bool) or not isinstance(cpus, int | float):
            raise TypeError(f"cpus must be a number, not {cpus!r}")
        if cpus == math.inf:
            limits["cpu"] = {"quota": -1, "period": _PERIOD}
        elif not 0.01 <= cpus <= (os.cpu_count() or 1):
            raise ValueError(f"cpus must be between 0.01 and the {os.cpu_count()} that there are, not {cpus}")
        else:
            limits["cpu"] = {"quota": round(cpus * _PERIOD), "period": _PERIOD}
    if pids is not None:
        if _positive("pids", pids) > _MOST_PIDS:
            raise ValueError(f"pids must be <= {_MOST_PIDS}, the most that a kernel has, not {pids}")
        limits["pids"] = {"limit": pids}
    if not limits:
        raise ValueError("nothing to change was given: memory, cpus or pids")
    return limits


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value <= 0:
        raise ValueError(f"{name} must be > 0, not {value}")
    return value
