"""What a container uses, out of containerd's messages for either version of cgroups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimpy.client.model import Stats
from shimpy.errors import InternalError

if TYPE_CHECKING:
    from shimpy.api import metrics_v1, metrics_v2, well_known

# Version 1 says "no limit" by the largest number of whole pages.
_NO_LIMIT = 1 << 62


def read_stats(message: well_known.Any) -> Stats:
    """Returns what a Stats call answered.

    Raises:
        InternalError: it is of a kind that is not known here.
    """
    kind = message.type_url.rpartition("/")[2]
    if kind == "io.containerd.cgroups.v1.Metrics":
        from shimpy.api import metrics_v1

        return _from_v1(metrics_v1.Metrics().parse(message.value))
    if kind == "io.containerd.cgroups.v2.Metrics":
        from shimpy.api import metrics_v2

        return _from_v2(metrics_v2.Metrics().parse(message.value))
    raise InternalError(f"the shim answered with statistics of an unknown kind, {kind!r}")


def _from_v1(metrics: metrics_v1.Metrics) -> Stats:
    memory, counts_memory = metrics.memory, _is_set(metrics, "memory")
    entries = metrics.blkio.io_service_bytes_recursive
    counts_io = _is_set(metrics, "blkio")
    return Stats(
        cpu_time=metrics.cpu.usage.total / 1e9 if _is_set(metrics, "cpu") else None,
        memory=max(0, memory.usage.usage - memory.total_inactive_file) if counts_memory else None,
        memory_limit=_limit(memory.usage.limit) if counts_memory else None,
        pids=metrics.pids.current if _is_set(metrics, "pids") else None,
        pids_limit=_limit(metrics.pids.limit) if _is_set(metrics, "pids") else None,
        read=sum(entry.value for entry in entries if entry.op.lower() == "read") if counts_io else None,
        written=sum(entry.value for entry in entries if entry.op.lower() == "write") if counts_io else None,
    )


def _from_v2(metrics: metrics_v2.Metrics) -> Stats:
    memory, counts_memory = metrics.memory, _is_set(metrics, "memory")
    counts_io = _is_set(metrics, "io")
    return Stats(
        cpu_time=metrics.cpu.usage_usec / 1e6 if _is_set(metrics, "cpu") else None,
        memory=max(0, memory.usage - memory.inactive_file) if counts_memory else None,
        memory_limit=_limit(memory.usage_limit) if counts_memory else None,
        pids=metrics.pids.current if _is_set(metrics, "pids") else None,
        pids_limit=_limit(metrics.pids.limit) if _is_set(metrics, "pids") else None,
        read=sum(entry.rbytes for entry in metrics.io.usage) if counts_io else None,
        written=sum(entry.wbytes for entry in metrics.io.usage) if counts_io else None,
    )


def _is_set(metrics: metrics_v1.Metrics | metrics_v2.Metrics, field: str) -> bool:
    import betterproto

    return betterproto.serialized_on_wire(getattr(metrics, field))


def _limit(number: int) -> int | None:
    return number if 0 < number < _NO_LIMIT else None
