"""What a container uses, out of either version's message."""

from __future__ import annotations

import pytest

import shimpy
from shimpy.api import metrics_v1, metrics_v2, well_known
from shimpy.client.stats import read_stats

NO_LIMIT = 2**64 - 1


def test_version_2() -> None:
    metrics = metrics_v2.Metrics(
        cpu=metrics_v2.CpuStat(usage_usec=1_500_000),
        memory=metrics_v2.MemoryStat(usage=1000, usage_limit=NO_LIMIT, inactive_file=300),
        pids=metrics_v2.PidsStat(current=3, limit=50),
        io=metrics_v2.IoStat(
            [metrics_v2.IoEntry(rbytes=1, wbytes=2), metrics_v2.IoEntry(rbytes=10, wbytes=20)]
        ),
    )
    stats = read_stats(well_known.Any("io.containerd.cgroups.v2.Metrics", bytes(metrics)))
    assert stats == shimpy.Stats(1.5, 700, None, 3, 50, 11, 22)


def test_version_1() -> None:
    entries = [
        metrics_v1.BlkIoEntry(op=op, value=value) for op, value in (("Read", 1), ("Write", 2), ("Total", 3))
    ]
    metrics = metrics_v1.Metrics(
        cpu=metrics_v1.CpuStat(metrics_v1.CpuUsage(total=2_000_000_000)),
        memory=metrics_v1.MemoryStat(
            usage=metrics_v1.MemoryEntry(limit=4096, usage=1000), total_inactive_file=1
        ),
        pids=metrics_v1.PidsStat(current=3, limit=NO_LIMIT),
        blkio=metrics_v1.BlkIoStat(entries),
    )
    stats = read_stats(well_known.Any("io.containerd.cgroups.v1.Metrics", bytes(metrics)))
    assert stats == shimpy.Stats(2.0, 999, 4096, 3, None, 1, 2)


def test_what_is_not_counted_is_none() -> None:
    stats = read_stats(well_known.Any("types/io.containerd.cgroups.v2.Metrics", b""))
    assert stats == shimpy.Stats(None, None, None, None, None, None, None)


def test_another_kind_is_refused() -> None:
    with pytest.raises(shimpy.InternalError, match="unknown kind"):
        read_stats(well_known.Any("io.containerd.cgroups.v3.Metrics", b""))
