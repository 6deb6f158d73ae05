"""What the controllers of version 2 count, as io.containerd.cgroups.v2.Metrics has it (cgroups(7))."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from shimpy.core.cgroup.stats.common import RdmaStat, rdma
from shimpy.core.cgroup.stats.files import Files, device_number, huge_page_sizes, number


@dataclass(frozen=True, slots=True)
class PsiData:
    """For how much of the time tasks waited: averages in percent, the total in microseconds."""

    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0
    total: int = 0


@dataclass(frozen=True, slots=True)
class PsiStats:
    """Pressure on a resource: some tasks waited for it, or all (the kernel's docs, PSI)."""

    some: PsiData | None
    full: PsiData | None


@dataclass(frozen=True, slots=True)
class PidsStat:
    """The number of tasks, and how many there may be."""

    current: int
    limit: int


@dataclass(frozen=True, slots=True)
class CpuStat:
    """CPU time in microseconds, and how often a quota was used up."""

    usage_usec: int = 0
    user_usec: int = 0
    system_usec: int = 0
    nr_periods: int = 0
    nr_throttled: int = 0
    throttled_usec: int = 0
    nr_bursts: int = 0
    burst_usec: int = 0
    psi: PsiStats | None = None


@dataclass(frozen=True, slots=True)
class MemoryStat:
    """What memory.stat has of the same name, and the controller's counters; bytes or numbers of pages."""

    anon: int = 0
    file: int = 0
    kernel_stack: int = 0
    slab: int = 0
    sock: int = 0
    shmem: int = 0
    file_mapped: int = 0
    file_dirty: int = 0
    file_writeback: int = 0
    anon_thp: int = 0
    inactive_anon: int = 0
    active_anon: int = 0
    inactive_file: int = 0
    active_file: int = 0
    unevictable: int = 0
    slab_reclaimable: int = 0
    slab_unreclaimable: int = 0
    pgfault: int = 0
    pgmajfault: int = 0
    workingset_refault: int = 0
    workingset_activate: int = 0
    workingset_nodereclaim: int = 0
    pgrefill: int = 0
    pgscan: int = 0
    pgsteal: int = 0
    pgactivate: int = 0
    pgdeactivate: int = 0
    pglazyfree: int = 0
    pglazyfreed: int = 0
    thp_fault_alloc: int = 0
    thp_collapse_alloc: int = 0
    usage: int = 0
    usage_limit: int = 0
    swap_usage: int = 0
    swap_limit: int = 0
    max_usage: int = 0
    swap_max_usage: int = 0
    psi: PsiStats | None = None


@dataclass(frozen=True, slots=True)
class MemoryEvents:
    """How often each limit was met, and how many processes the OOM killer has killed."""

    low: int = 0
    high: int = 0
    max: int = 0
    oom: int = 0
    oom_kill: int = 0
    oom_group_kill: int = 0


@dataclass(frozen=True, slots=True)
class IoEntry:
    """Bytes and operations of one device."""

    major: int
    minor: int
    rbytes: int
    wbytes: int
    rios: int
    wios: int


@dataclass(frozen=True, slots=True)
class IoStat:
    """What each device did."""

    usage: tuple[IoEntry, ...]
    psi: PsiStats | None


@dataclass(frozen=True, slots=True)
class HugetlbStat:
    """Huge pages of one size, in bytes but for `failcnt`."""

    pagesize: str
    current: int
    max: int
    failcnt: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """What there is of one container; None for a controller that is off."""

    pids: PidsStat | None = None
    cpu: CpuStat | None = None
    memory: MemoryStat | None = None
    rdma: RdmaStat | None = None
    io: IoStat | None = None
    hugetlb: tuple[HugetlbStat, ...] = ()
    memory_events: MemoryEvents | None = None


def read_metrics(directory: str) -> Metrics | None:
    """Reads everything once, some sixty system calls; None if the cgroup is not there any more.

    Args:
        directory: of the cgroup.
    """
    try:
        files = Files(directory)
    except FileNotFoundError:
        return None
    with files:
        metrics = Metrics(
            pids=_pids(files),
            cpu=_cpu(files),
            memory=_memory(files),
            # containerd's own shim always has it, empty where there is no such device.
            rdma=rdma(files) or RdmaStat((), ()),
            io=_io(files),
            hugetlb=_hugetlb(files),
            memory_events=_memory_events(files),
        )
    # Every cgroup has a cpu.stat: one without has been removed under our hands.
    return metrics if metrics.cpu is not None else None


def _pids(files: Files) -> PidsStat | None:
    current = files.text("pids.current")
    return None if current is None else PidsStat(number(current), files.number("pids.max"))


def _cpu(files: Files) -> CpuStat | None:
    counted = files.pairs("cpu.stat")
    if counted is None:
        return None
    return CpuStat(**{name: counted.get(name, 0) for name in _CPU_FIELDS}, psi=_psi(files, "cpu.pressure"))


_CPU_FIELDS: Final = [field.name for field in fields(CpuStat) if field.name != "psi"]
_MEMORY_FILES: Final = {
    "usage": "memory.current",
    "usage_limit": "memory.max",
    "swap_usage": "memory.swap.current",
    "swap_limit": "memory.swap.max",
    "max_usage": "memory.peak",
    "swap_max_usage": "memory.swap.peak",
}
_MEMORY_FIELDS: Final = [
    field.name for field in fields(MemoryStat) if field.name not in _MEMORY_FILES and field.name != "psi"
]
# Since Linux 5.9 this one is counted for two kinds of pages apart.
_REFAULTS: Final = ("workingset_refault_anon", "workingset_refault_file")
_ACTIVATIONS: Final = ("workingset_activate_anon", "workingset_activate_file")


def _memory(files: Files) -> MemoryStat | None:
    counted = files.pairs("memory.stat")
    if counted is None:
        return None
    for whole, parts in (("workingset_refault", _REFAULTS), ("workingset_activate", _ACTIVATIONS)):
        counted.setdefault(whole, sum(counted.get(part, 0) for part in parts))
    return MemoryStat(
        **{name: counted.get(name, 0) for name in _MEMORY_FIELDS},
        **{field: files.number(name) for field, name in _MEMORY_FILES.items()},
        psi=_psi(files, "memory.pressure"),
    )


def _memory_events(files: Files) -> MemoryEvents | None:
    counted = files.pairs("memory.events")
    if counted is None:
        return None
    return MemoryEvents(**{field.name: counted.get(field.name, 0) for field in fields(MemoryEvents)})


def _io(files: Files) -> IoStat | None:
    usage = []
    for key, counted in files.nested("io.stat"):
        device = device_number(key)
        if device is not None:
            numbers = (number(counted.get(name, "")) for name in ("rbytes", "wbytes", "rios", "wios"))
            usage.append(IoEntry(*device, *numbers))
    psi = _psi(files, "io.pressure")
    return IoStat(tuple(usage), psi) if usage or psi else None


def _hugetlb(files: Files) -> tuple[HugetlbStat, ...]:
    found = []
    for size in huge_page_sizes():
        current = files.text(f"hugetlb.{size}.current")
        if current is None:
            break  # the controller is off
        failures = files.pairs(f"hugetlb.{size}.events") or {}
        limit = files.number(f"hugetlb.{size}.max")
        found.append(HugetlbStat(size, number(current), limit, failures.get("max", 0)))
    return tuple(found)


def _psi(files: Files, name: str) -> PsiStats | None:
    found = {kind: _psi_data(data) for kind, data in files.nested(name) if kind in ("some", "full")}
    return PsiStats(found.get("some"), found.get("full")) if found else None


def _psi_data(told: dict[str, str]) -> PsiData:
    avg10, avg60, avg300 = (_percent(told.get(name, "")) for name in ("avg10", "avg60", "avg300"))
    return PsiData(avg10, avg60, avg300, number(told.get("total", "")))


def _percent(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
