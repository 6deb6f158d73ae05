"""What the controllers of version 1 count, as io.containerd.cgroups.v1.Metrics has it (cgroups(7))."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from shimpy.core.cgroup.stats.blkio import BlkioStat, blkio
from shimpy.core.cgroup.stats.common import RdmaStat, rdma
from shimpy.core.cgroup.stats.files import Files, huge_page_sizes, number

_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # nanoseconds


@dataclass(frozen=True, slots=True)
class HugetlbStat:
    """Huge pages of one size, in bytes but for `failcnt`."""

    pagesize: str
    usage: int
    max: int
    failcnt: int


@dataclass(frozen=True, slots=True)
class PidsStat:
    """The number of tasks, and how many there may be; 0 for no limit."""

    current: int
    limit: int


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """CPU time, in nanoseconds."""

    total: int = 0
    kernel: int = 0
    user: int = 0
    per_cpu: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Throttle:
    """How often a quota was used up, and for how long that stopped it, in nanoseconds."""

    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


@dataclass(frozen=True, slots=True)
class CpuStat:
    """What the controllers cpu and cpuacct count."""

    usage: CpuUsage
    throttling: Throttle


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """One counter of memory, in bytes, and how often it was at its limit."""

    limit: int = 0
    usage: int = 0
    max: int = 0
    failcnt: int = 0


@dataclass(frozen=True, slots=True)
class MemoryStat:
    """Memory: the four counters, and what memory.stat has of the same name, in bytes or numbers of pages."""

    usage: MemoryEntry
    swap: MemoryEntry
    kernel: MemoryEntry
    kernel_tcp: MemoryEntry
    cache: int = 0
    rss: int = 0
    rss_huge: int = 0
    mapped_file: int = 0
    dirty: int = 0
    writeback: int = 0
    pg_pg_in: int = 0
    pg_pg_out: int = 0
    pg_fault: int = 0
    pg_maj_fault: int = 0
    inactive_anon: int = 0
    active_anon: int = 0
    inactive_file: int = 0
    active_file: int = 0
    unevictable: int = 0
    hierarchical_memory_limit: int = 0
    hierarchical_swap_limit: int = 0
    total_cache: int = 0
    total_rss: int = 0
    total_rss_huge: int = 0
    total_mapped_file: int = 0
    total_dirty: int = 0
    total_writeback: int = 0
    total_pg_pg_in: int = 0
    total_pg_pg_out: int = 0
    total_pg_fault: int = 0
    total_pg_maj_fault: int = 0
    total_inactive_anon: int = 0
    total_active_anon: int = 0
    total_inactive_file: int = 0
    total_active_file: int = 0
    total_unevictable: int = 0


@dataclass(frozen=True, slots=True)
class MemoryOomControl:
    """Whether the OOM killer is off, whether it would strike now, how many processes it has killed."""

    oom_kill_disable: int
    under_oom: int
    oom_kill: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """What there is of one container; None for a controller that it has no cgroup of."""

    hugetlb: tuple[HugetlbStat, ...] = ()
    pids: PidsStat | None = None
    cpu: CpuStat | None = None
    memory: MemoryStat | None = None
    blkio: BlkioStat | None = None
    rdma: RdmaStat | None = None
    memory_oom_control: MemoryOomControl | None = None


def read_metrics(directories: Mapping[str, str]) -> Metrics | None:
    """Reads everything once, some eighty system calls; None if no cgroup is there any more.

    Args:
        directories: of the cgroup of each of `shimpy.core.cgroup.stats.CONTROLLERS`, as far as there is one.
    """
    found: dict[str, Files] = {}
    try:
        for controller, directory in directories.items():
            try:
                found[controller] = Files(directory)
            except FileNotFoundError:
                continue  # a runtime removes one after the other
        if not found:
            return None
        memory, pids = found.get("memory"), found.get("pids")
        return Metrics(
            hugetlb=_hugetlb(found["hugetlb"]) if "hugetlb" in found else (),
            pids=_pids(pids) if pids else None,
            cpu=_cpu(found.get("cpu"), found.get("cpuacct")),
            memory=_memory(memory) if memory else None,
            blkio=blkio(found["blkio"]) if "blkio" in found else None,
            rdma=rdma(found["rdma"]) if "rdma" in found else None,
            memory_oom_control=_oom_control(memory) if memory else None,
        )
    finally:
        for files in found.values():
            files.__exit__()


def _pids(files: Files) -> PidsStat:
    # Of version 1 containerd's own shim says 0 for no limit, in all versions.
    limit = number(files.text("pids.max") or "", unlimited=0)
    return PidsStat(files.number("pids.current"), limit)


def _cpu(cpu: Files | None, cpuacct: Files | None) -> CpuStat | None:
    if cpu is None and cpuacct is None:
        return None
    usage, throttling = CpuUsage(), Throttle()
    if cpuacct is not None:
        ticks = cpuacct.pairs("cpuacct.stat") or {}
        per_cpu = (cpuacct.text("cpuacct.usage_percpu") or "").split()
        usage = CpuUsage(
            total=cpuacct.number("cpuacct.usage"),
            kernel=ticks.get("system", 0) * _TICK,
            user=ticks.get("user", 0) * _TICK,
            per_cpu=tuple(map(number, per_cpu)),
        )
    if cpu is not None:
        counted = cpu.pairs("cpu.stat") or {}
        throttling = Throttle(
            counted.get("nr_periods", 0), counted.get("nr_throttled", 0), counted.get("throttled_time", 0)
        )
    return CpuStat(usage, throttling)


# What memory.stat calls by another name.
_IN_MEMORY_STAT: Final = {
    "hierarchical_swap_limit": "hierarchical_memsw_limit",
    **{
        f"{total}{field}": f"{total}{name}"
        for total in ("", "total_")
        for field, name in {
            "pg_pg_in": "pgpgin",
            "pg_pg_out": "pgpgout",
            "pg_fault": "pgfault",
            "pg_maj_fault": "pgmajfault",
        }.items()
    },
}
_MEMORY_FIELDS: Final = [
    (field.name, _IN_MEMORY_STAT.get(field.name, field.name))
    for field in fields(MemoryStat)
    if field.name not in ("usage", "swap", "kernel", "kernel_tcp")
]


def _memory(files: Files) -> MemoryStat | None:
    counted = files.pairs("memory.stat")
    if counted is None:
        return None
    return MemoryStat(
        usage=_entry(files, "memory"),
        swap=_entry(files, "memory.memsw"),
        kernel=_entry(files, "memory.kmem"),
        kernel_tcp=_entry(files, "memory.kmem.tcp"),
        **{field: counted.get(name, 0) for field, name in _MEMORY_FIELDS},
    )


def _entry(files: Files, prefix: str) -> MemoryEntry:
    usage = files.text(f"{prefix}.usage_in_bytes")
    if usage is None:
        return MemoryEntry()  # swap and the kernel's memory may not be counted: then all four are missing
    return MemoryEntry(
        limit=files.number(f"{prefix}.limit_in_bytes"),
        usage=number(usage),
        max=files.number(f"{prefix}.max_usage_in_bytes"),
        failcnt=files.number(f"{prefix}.failcnt"),
    )


def _oom_control(files: Files) -> MemoryOomControl | None:
    told = files.pairs("memory.oom_control")
    if told is None:
        return None
    return MemoryOomControl(
        told.get("oom_kill_disable", 0), told.get("under_oom", 0), told.get("oom_kill", 0)
    )


def _hugetlb(files: Files) -> tuple[HugetlbStat, ...]:
    return tuple(
        HugetlbStat(
            pagesize=size,
            usage=files.number(f"hugetlb.{size}.usage_in_bytes"),
            max=files.number(f"hugetlb.{size}.max_usage_in_bytes"),
            failcnt=files.number(f"hugetlb.{size}.failcnt"),
        )
        for size in huge_page_sizes()
    )
