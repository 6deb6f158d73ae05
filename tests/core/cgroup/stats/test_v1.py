"""Version 1: real cgroups where the machine has them, and laid-out files for what it lacks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.cgroup.stats import StatsReader, blkio, v1
from shimpy.core.cgroup.stats.blkio import BlkioEntry, BlkioStat
from shimpy.core.cgroup.stats.common import RdmaEntry, RdmaStat
from shimpy.errors import NotFoundError
from tests.support import cgroups

BUSY = """
memory = bytearray(40 << 20)
end = time.process_time() + 0.05
while time.process_time() < end: os.getppid()
print("ready", flush=True)
time.sleep(1000)
"""


def lay(directory: Path, **files: str) -> Path:
    """Writes files; two underscores in a name stand for a dot."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def read(**directories: Path) -> v1.Metrics:
    metrics = v1.read_metrics({name: str(path) for name, path in directories.items()})
    assert metrics is not None
    return metrics


def test_what_a_process_uses_is_read() -> None:
    with contextlib.ExitStack() as stack:
        found = {
            name: stack.enter_context(cgroups.scratch(name))
            for name in ("pids", "cpu", "cpuacct", "memory", "blkio")
        }
        (found["pids"] / "pids.max").write_text("17")
        (found["memory"] / "memory.limit_in_bytes").write_text(str(128 << 20))
        process = stack.enter_context(cgroups.Started(BUSY, *{*found.values()}))
        assert process.line == "ready"

        reader = StatsReader.of(process.pid)
        assert reader.directories == reader.directories | {name: str(path) for name, path in found.items()}
        metrics = reader.read()

        assert isinstance(metrics, v1.Metrics)
        assert metrics.pids == v1.PidsStat(current=1, limit=17)
        assert metrics.cpu is not None
        assert 40_000_000 < metrics.cpu.usage.total < 60_000_000_000
        assert sum(metrics.cpu.usage.per_cpu) == pytest.approx(metrics.cpu.usage.total, rel=0.5)
        assert metrics.cpu.usage.user + metrics.cpu.usage.kernel > 0
        assert metrics.memory is not None
        assert metrics.memory.usage.limit == metrics.memory.hierarchical_memory_limit == 128 << 20
        assert 40 << 20 < metrics.memory.usage.usage <= metrics.memory.usage.max <= 128 << 20
        assert metrics.memory.total_rss >= metrics.memory.rss > 40 << 20
        assert metrics.memory.pg_fault == metrics.memory.total_pg_fault > 0
        assert metrics.memory.pg_pg_in > 0
        assert metrics.memory_oom_control == v1.MemoryOomControl(0, 0, 0)


def test_a_cgroup_outlives_its_processes() -> None:
    with cgroups.scratch("memory") as memory:
        with cgroups.Started("print('ready', flush=True); time.sleep(1000)", memory) as process:
            assert process.line == "ready"
            reader = StatsReader.of(process.pid)
            assert reader.directories["memory"] == str(memory)

        metrics = StatsReader({"memory": str(memory)}).read()

        assert isinstance(metrics, v1.Metrics)
        assert metrics.memory is not None
        assert metrics.memory.usage.max > 0


def test_a_cgroup_that_is_gone_is_not_found() -> None:
    with cgroups.scratch("memory") as memory, cgroups.scratch("pids") as pids:
        reader = StatsReader({"memory": str(memory), "pids": str(pids)})
        reader.read()
    with pytest.raises(NotFoundError, match="gone"):
        reader.read()


def test_without_any_cgroup_nothing_is_found() -> None:
    with pytest.raises(NotFoundError):
        StatsReader({}).read()


def test_the_rest_is_read_while_a_runtime_removes_one_after_the_other(tmp_path: Path) -> None:
    pids = lay(tmp_path / "pids", pids__current="3\n", pids__max="max\n")

    metrics = read(pids=pids, memory=tmp_path / "gone")

    assert metrics == v1.Metrics(pids=v1.PidsStat(current=3, limit=0))


def test_quota_and_usage_stand_together(tmp_path: Path) -> None:
    cpu = lay(tmp_path / "cpu", cpu__stat="nr_periods 3\nnr_throttled 2\nthrottled_time 1000\n")

    assert read(cpu=cpu).cpu == v1.CpuStat(v1.CpuUsage(), v1.Throttle(3, 2, 1000))


def test_ticks_become_nanoseconds(tmp_path: Path) -> None:
    acct = lay(
        tmp_path / "cpuacct",
        cpuacct__stat="user 150\nsystem 50\n",
        cpuacct__usage="2000000001\n",
        cpuacct__usage_percpu="2000000000 1 \n",
    )
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    assert read(cpuacct=acct).cpu == v1.CpuStat(
        v1.CpuUsage(total=2_000_000_001, kernel=50 * tick, user=150 * tick, per_cpu=(2_000_000_000, 1)),
        v1.Throttle(),
    )


def test_every_counter_of_memory(tmp_path: Path) -> None:
    names = (
        *("cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pgpgin", "pgpgout", "pgfault"),
        *("pgmajfault", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"),
    )
    stat = [*names, "hierarchical_memory_limit", "hierarchical_memsw_limit", *(f"total_{n}" for n in names)]
    numbers = range(1, len(stat) + 1)
    files = {
        f"memory{kind}.{name}": str(1000 * first + second)
        for first, kind in enumerate(("", ".memsw", ".kmem", ".kmem.tcp"))
        for second, name in enumerate(("limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt"))
    }
    files["memory.stat"] = "".join(f"{name} {value}\n" for name, value in zip(stat, numbers, strict=True))
    files["memory.oom_control"] = "oom_kill_disable 1\nunder_oom 1\noom_kill 7\n"

    metrics = read(memory=lay(tmp_path / "memory", **files))

    assert metrics.memory == v1.MemoryStat(
        v1.MemoryEntry(0, 1, 2, 3),
        v1.MemoryEntry(1000, 1001, 1002, 1003),
        v1.MemoryEntry(2000, 2001, 2002, 2003),
        v1.MemoryEntry(3000, 3001, 3002, 3003),
        *numbers,
    )
    assert metrics.memory_oom_control == v1.MemoryOomControl(1, 1, 7)


def test_swap_that_is_not_counted_is_zero(tmp_path: Path) -> None:
    memory = lay(tmp_path / "memory", memory__stat="cache 1\n", memory__usage_in_bytes="5\n")

    stat = read(memory=memory).memory

    assert stat is not None
    assert (stat.usage.usage, stat.swap) == (5, v1.MemoryEntry())


def test_huge_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v1, "huge_page_sizes", lambda: ("2MB", "1GB"))
    names = [f"hugetlb.{size}.{name}" for size in ("2MB", "1GB") for name in _HUGE]
    directory = lay(tmp_path / "hugetlb", **{name: str(number) for number, name in enumerate(names)})

    assert read(hugetlb=directory).hugetlb == (
        v1.HugetlbStat("2MB", 0, 1, 2),
        v1.HugetlbStat("1GB", 3, 4, 5),
    )


_HUGE = ("usage_in_bytes", "max_usage_in_bytes", "failcnt")


def test_rdma(tmp_path: Path) -> None:
    directory = lay(
        tmp_path / "rdma",
        rdma__current="mlx4_0 hca_handle=2 hca_object=20\nmlx5_0 hca_handle=0 hca_object=0\n",
        rdma__max="mlx4_0 hca_handle=2 hca_object=max\nmlx5_0 hca_handle=max hca_object=max\n",
    )

    unlimited = 2**32 - 1
    assert read(rdma=directory).rdma == RdmaStat(
        current=(RdmaEntry("mlx4_0", 2, 20), RdmaEntry("mlx5_0", 0, 0)),
        limit=(RdmaEntry("mlx4_0", 2, unlimited), RdmaEntry("mlx5_0", unlimited, unlimited)),
    )


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one block device."""
    monkeypatch.setattr(blkio, "_device", lambda *number: "/dev/sda" if number == (8, 0) else "")


@pytest.mark.usefixtures("devices")
def test_block_devices_below_a_cgroup_count(tmp_path: Path) -> None:
    directory = lay(
        tmp_path / "blkio",
        blkio__throttle__io_service_bytes="8:0 Read 1\nTotal 1\n",
        blkio__throttle__io_service_bytes_recursive=(
            "8:0 Read 4096\n8:0 Total 4096\n9:1 Write 7\nTotal 4103\n"
        ),
        blkio__throttle__io_serviced="8:0 Read 3\nTotal 3\n",
    )

    assert read(blkio=directory).blkio == BlkioStat(
        io_service_bytes_recursive=(
            BlkioEntry("Read", "/dev/sda", 8, 0, 4096),
            BlkioEntry("Total", "/dev/sda", 8, 0, 4096),
            BlkioEntry("Write", "", 9, 1, 7),
        ),
        io_serviced_recursive=(BlkioEntry("Read", "/dev/sda", 8, 0, 3),),
    )


@pytest.mark.usefixtures("devices")
def test_cfq_counts_more_than_the_throttle(tmp_path: Path) -> None:
    directory = lay(
        tmp_path / "blkio",
        blkio__io_serviced_recursive="8:0 Read 3\nTotal 3\n",
        blkio__time_recursive="8:0 17\n",
        blkio__sectors_recursive="8:0 8\n",
        blkio__throttle__io_serviced="8:0 Read 99\nTotal 99\n",
    )

    assert read(blkio=directory).blkio == BlkioStat(
        io_serviced_recursive=(BlkioEntry("Read", "/dev/sda", 8, 0, 3),),
        io_time_recursive=(BlkioEntry("", "/dev/sda", 8, 0, 17),),
        sectors_recursive=(BlkioEntry("", "/dev/sda", 8, 0, 8),),
    )


@pytest.mark.usefixtures("devices")
def test_where_cfq_schedules_nothing_the_throttle_counts(tmp_path: Path) -> None:
    directory = lay(
        tmp_path / "blkio",
        blkio__io_serviced_recursive="Total 0\n",
        blkio__throttle__io_serviced="8:0 Read 99\nTotal 99\n",
    )

    assert read(blkio=directory).blkio == BlkioStat(
        io_serviced_recursive=(BlkioEntry("Read", "/dev/sda", 8, 0, 99),)
    )


def test_a_block_device_has_its_name() -> None:
    devices = {path.read_text().strip(): path.parent.name for path in Path("/sys/block").glob("*/dev")}
    if not devices:
        pytest.skip("this machine has no block device")
    number, name = next(iter(devices.items()))

    assert blkio._device(*map(int, number.split(":"))) == "/dev/" + name.replace("!", "/")


def test_each_file_costs_three_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        real: Callable[..., object] = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return real(*args, **kwargs)

        return call

    for name in ("open", "read", "close"):
        monkeypatch.setattr(os, name, counted(name))
    directory = lay(tmp_path / "pids", pids__current="3\n", pids__max="max\n")

    read(pids=directory)

    assert calls == ["open", *["open", "read", "close"] * 2, "close"]


@pytest.mark.parametrize("text", ["", "x", "1 2 3", "\xff\n\n", "max", "-5", "a b\n", "8:x 1\n", "8:0\n"])
def test_no_text_breaks_it(tmp_path: Path, text: str) -> None:
    names = {
        "pids": "pids.current",
        "cpu": "cpu.stat",
        "cpuacct": "cpuacct.usage_percpu",
        "memory": "memory.stat",
        "blkio": "blkio.throttle.io_serviced",
        "rdma": "rdma.max",
    }
    directories = {name: lay(tmp_path / name, **{file: text}) for name, file in names.items()}

    read(**directories)
