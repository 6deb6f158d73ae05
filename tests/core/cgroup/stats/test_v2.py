"""Version 2, from laid-out files: not every machine has its controllers."""

from __future__ import annotations

from pathlib import Path

import pytest

from shimpy.core.cgroup.hierarchies import UNIFIED
from shimpy.core.cgroup.stats import StatsReader, files, v1, v2
from shimpy.core.cgroup.stats.common import RdmaEntry, RdmaStat
from shimpy.errors import NotFoundError
from tests.core.cgroup.stats.test_v1 import lay

UNLIMITED = 2**64 - 1
CPU = "usage_usec 6\nuser_usec 4\nsystem_usec 2\n"
PRESSURE = (
    "some avg10=1.50 avg60=0.25 avg300=0.00 total=123\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=12\n"
)
PSI = v2.PsiStats(v2.PsiData(1.5, 0.25, 0.0, 123), v2.PsiData(0.5, 0.0, 0.0, 12))


def read(directory: Path) -> v2.Metrics:
    metrics = v2.read_metrics(str(directory))
    assert metrics is not None
    return metrics


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """A cgroup with no controller."""
    return lay(tmp_path / "cgroup", cpu__stat=CPU)


def test_a_cgroup_without_controllers_has_cpu_time(cgroup: Path) -> None:
    assert read(cgroup) == v2.Metrics(cpu=v2.CpuStat(6, 4, 2), rdma=RdmaStat((), ()))


def test_pids(cgroup: Path) -> None:
    lay(cgroup, pids__current="3\n", pids__max="max\n")

    assert read(cgroup).pids == v2.PidsStat(current=3, limit=UNLIMITED)


def test_cpu(cgroup: Path) -> None:
    more = "nr_periods 1\nnr_throttled 2\nthrottled_usec 3\nnr_bursts 4\nburst_usec 5\nnice_usec 9\n"
    lay(cgroup, cpu__stat=CPU + more, cpu__pressure=PRESSURE)

    assert read(cgroup).cpu == v2.CpuStat(6, 4, 2, 1, 2, 3, 4, 5, PSI)


def test_every_counter_of_memory(cgroup: Path) -> None:
    names = (
        *("anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty"),
        *("file_writeback", "anon_thp", "inactive_anon", "active_anon", "inactive_file", "active_file"),
        *("unevictable", "slab_reclaimable", "slab_unreclaimable", "pgfault", "pgmajfault"),
        *("workingset_refault", "workingset_activate", "workingset_nodereclaim", "pgrefill", "pgscan"),
        *("pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed"),
        *("thp_fault_alloc", "thp_collapse_alloc"),
    )
    numbers = range(1, len(names) + 1)
    stat = "".join(f"{name} {value}\n" for name, value in zip(names, numbers, strict=True))
    values = {
        "memory.current": "100\n",
        "memory.max": "max\n",
        "memory.swap.current": "101\n",
        "memory.swap.max": "102\n",
        "memory.peak": "103\n",
        "memory.swap.peak": "104\n",
    }
    lay(cgroup, memory__stat=stat + "other 5\n", memory__pressure=PRESSURE, **values)

    assert read(cgroup).memory == v2.MemoryStat(
        **dict(zip(names, numbers, strict=True)),
        usage=100,
        usage_limit=UNLIMITED,
        swap_usage=101,
        swap_limit=102,
        max_usage=103,
        swap_max_usage=104,
        psi=PSI,
    )


def test_refaults_that_are_counted_apart_are_added(cgroup: Path) -> None:
    lay(
        cgroup,
        memory__stat="workingset_refault_anon 1\nworkingset_refault_file 2\n"
        "workingset_activate_anon 4\nworkingset_activate_file 8\n",
    )

    memory = read(cgroup).memory

    assert memory is not None
    assert (memory.workingset_refault, memory.workingset_activate) == (3, 12)


def test_an_older_kernel_counts_less(cgroup: Path) -> None:
    lay(cgroup, memory__stat="anon 1\n", memory__current="2\n")

    assert read(cgroup).memory == v2.MemoryStat(anon=1, usage=2)


def test_memory_events(cgroup: Path) -> None:
    lay(cgroup, memory__events="low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n")

    assert read(cgroup).memory_events == v2.MemoryEvents(1, 2, 3, 4, 5, 6)


def test_io(cgroup: Path) -> None:
    stat = "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:0 \n253:0 rios=7\n"
    lay(cgroup, io__stat=stat, io__pressure=PRESSURE)

    assert read(cgroup).io == v2.IoStat(
        (
            v2.IoEntry(8, 16, 1, 2, 3, 4),
            v2.IoEntry(8, 0, 0, 0, 0, 0),
            v2.IoEntry(253, 0, 0, 0, 7, 0),
        ),
        PSI,
    )


def test_pressure_of_some_alone(cgroup: Path) -> None:
    lay(cgroup, cpu__pressure=PRESSURE.splitlines()[0])

    cpu = read(cgroup).cpu

    assert cpu is not None
    assert cpu.psi == v2.PsiStats(PSI.some, None)


def test_rdma(cgroup: Path) -> None:
    lay(cgroup, rdma__current="a hca_handle=1 hca_object=2\n", rdma__max="a hca_handle=max hca_object=4\n")

    assert read(cgroup).rdma == RdmaStat((RdmaEntry("a", 1, 2),), (RdmaEntry("a", 2**32 - 1, 4),))


def test_huge_pages(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2, "huge_page_sizes", lambda: ("2MB",))
    lay(cgroup, **{"hugetlb.2MB.current": "1", "hugetlb.2MB.max": "max", "hugetlb.2MB.events": "max 3\n"})

    assert read(cgroup).hugetlb == (v2.HugetlbStat("2MB", 1, UNLIMITED, 3),)


@pytest.mark.parametrize("text", ["", "x", "1 2 3", "\xff\n\n", "max", "-5", "a b\n", "8:x 1\n"])
def test_no_text_breaks_it(cgroup: Path, text: str) -> None:
    for name in ("pids.current", "memory.stat", "memory.events", "io.stat", "cpu.pressure", "rdma.max"):
        (cgroup / name).write_text(text)

    read(cgroup)


def test_a_cgroup_that_is_gone_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        StatsReader({UNIFIED: str(tmp_path / "gone")}).read()


def test_a_cgroup_that_goes_meanwhile_is_not_found(tmp_path: Path) -> None:
    """Its directory is open by then, and there is nothing in it any more."""
    (tmp_path / "going").mkdir()

    with pytest.raises(NotFoundError):
        StatsReader({UNIFIED: str(tmp_path / "going")}).read()


@pytest.mark.parametrize(
    ("size", "name"), [(64, "64KB"), (2048, "2MB"), (32 << 10, "32MB"), (1 << 20, "1GB"), (16 << 20, "16GB")]
)
def test_the_kernels_names_of_huge_pages(size: int, name: str) -> None:
    assert files._in_words(size) == name


def proc(tmp_path: Path, mounts: str, membership: str) -> Path:
    """Lays out a procfs with the mounts of this process, and the cgroups of process 7."""
    for name in ("self", "7"):
        (tmp_path / "proc" / name).mkdir(parents=True)
        (tmp_path / "proc" / name / "cgroup").write_text(membership)
    (tmp_path / "proc" / "self" / "mountinfo").write_text(mounts)
    return tmp_path / "proc"


def test_version_2_is_read_where_it_is_at_the_place_of_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "sys"
    lay(top, cgroup__controllers="")
    lay(top / "web", cgroup__procs="", cpu__stat=CPU)
    monkeypatch.setattr("shimpy.core.cgroup.stats._CGROUPS", str(top))

    reader = StatsReader.of(7, proc=proc(tmp_path, f"1 0 0:1 / {top} rw - cgroup2 cgroup2 rw\n", "0::/web\n"))

    assert reader.directories == {UNIFIED: str(top / "web")}
    assert isinstance(reader.read(), v2.Metrics)


def test_version_1_is_read_where_a_machine_has_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "sys"
    monkeypatch.setattr("shimpy.core.cgroup.stats._CGROUPS", str(top))
    for name in ("pids", "unified"):
        (top / name).mkdir(parents=True)
        lay(top / name / "web", cgroup__procs="", cpu__stat=CPU)
    mounts = (
        f"1 0 0:1 / {top} rw - tmpfs tmpfs rw\n"
        f"2 1 0:2 / {top}/unified rw - cgroup2 cgroup2 rw\n"
        f"3 1 0:3 / {top}/pids rw - cgroup cgroup rw,pids\n"
    )

    reader = StatsReader.of(7, proc=proc(tmp_path, mounts, "2:pids:/web\n0::/web\n"))

    assert reader.directories == {"pids": str(top / "pids" / "web")}
    assert isinstance(reader.read(), v1.Metrics)
