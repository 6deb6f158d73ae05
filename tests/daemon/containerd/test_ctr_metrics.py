"""`ctr tasks metrics`: the fields of containerd's own shim, and the numbers of the cgroup's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import counters, machine
from tests.support.containerd import RUNTIME, STOCK, Containerd, run_arguments
from tests.support.leaks import eventually

pytestmark = pytest.mark.anyio

# Uses memory once, and the processor all the time.
WORK = ("sh", "-c", "head -c 3000000 /dev/zero > /tmp/file; while :; do :; done")

LIMITS = ("--memory-limit", str(64 << 20), "--cpu-quota", "50000", "--cpu-period", "100000")


def messages(value: Any, name: str = "") -> list[str]:
    """Returns the names of the messages in a message in JSON."""
    if not isinstance(value, dict):
        return []
    inner = (found for key, each in value.items() for found in messages(each, f"{name}.{key}"))
    return sorted([name, *inner])


async def measure(containerd: Containerd, rootfs: Path, name: str, runtime: str) -> Any:
    """Returns what ctr prints of a container, and what its files said before and after that."""
    containerd.ctr(*run_arguments("-d", *LIMITS, rootfs=rootfs, name=name, command=WORK, runtime=runtime))
    periods = next(key for key in counters.read(name) if key.endswith("periods"))
    await eventually(lambda: counters.read(name)[periods] > 2)
    before = counters.read(name)
    metrics = json.loads(containerd.ctr("tasks", "metrics", "--format", "json", name).stdout)
    after = counters.read(name)
    containerd.remove(name)
    # Devices come and go with the page cache, and on version 2 a controller of huge pages with whoever asks
    # systemd for one; theirs is tests/core/cgroup/stats.
    left_out = ("blkio.", "io.", "hugetlb.")
    told = {key: value for key, value in counters.flat(metrics) if not key.startswith(left_out)}
    return metrics, told, before, after


@pytest.mark.skipif(machine.RUNTIME == "crun", reason="crun sets no limits on the scope, with either shim")
async def test_they_are_the_stock_shims_and_the_files(
    containerd: Containerd, rootfs: Path, new_id: Callable[[], str]
) -> None:
    found = [await measure(containerd, rootfs, new_id(), runtime) for runtime in (STOCK, RUNTIME)]

    (stock, stock_told, _, _), (ours, ours_told, _, _) = found
    assert messages(ours) == messages(stock)
    assert {key: ours_told[key] for key in ours_told if "limit" in key} == {
        key: stock_told[key] for key in stock_told if "limit" in key
    }
    for _, told, before, after in found:
        # What was charged in advance to a processor is given back at some moment.
        bounds = {key: sorted((before.get(key, -1), after.get(key, -1))) for key in told}
        assert [
            (key, value, bounds[key])
            for key, value in told.items()
            if not bounds[key][0] <= value <= bounds[key][1]
        ] == []
        # JSON leaves out what is zero.
        due = {key for key in stock_told | ours_told if before[key]}
        assert due - told.keys() == set()
