"""What is done to a container as a whole, over memory and over a socket."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shimpy
from shimpy.client.limits import resources
from tests.support.containers import cgroups
from tests.support.sandboxes import inside, sandbox

pytestmark = pytest.mark.anyio


async def test_a_signal_reaches_init(reached: shimpy.Container) -> None:
    await reached.kill(signal.SIGTERM)
    assert await reached.wait() == 3


async def test_a_stopped_container_has_nothing_to_signal(reached: shimpy.Container) -> None:
    assert await reached.stop() == 3
    with pytest.raises(shimpy.FailedPreconditionError, match="has ended"):
        await reached.kill()
    with pytest.raises(shimpy.FailedPreconditionError, match="has ended"):
        await reached.stats()
    assert await reached.stop() == 3


async def test_what_ignores_sigterm_is_killed(bundle: Callable[..., str], new_id: Callable[[], str]) -> None:
    async with sandbox(bundle, new_id()) as container:  # init of a pid namespace, with no handler
        assert await container.stop(timeout=0.1) == 137


async def test_stats_say_what_is_used(reached: shimpy.Container) -> None:
    await reached.run(["sh", "-c", "head -c 30000000 /dev/zero | tail -c 1"])
    stats = await reached.stats()
    assert stats.cpu_time is not None
    assert stats.cpu_time > 0
    assert stats.memory is not None
    assert 0 < stats.memory < 1 << 30
    assert stats.pids is not None
    assert stats.pids >= 1
    assert stats.pids_limit is None


async def test_limits_are_changed_while_it_runs(reached: shimpy.Container) -> None:
    await reached.update(memory=64 << 20, pids=50, cpus=0.5)
    stats = await reached.stats()
    assert (stats.memory_limit, stats.pids_limit) == (64 << 20, 50)

    # Up again: the limit with swap goes with it.
    await reached.update(memory=128 << 20)
    assert (await reached.stats()).memory_limit == 128 << 20


def cpu_limits(container_id: str) -> set[str]:
    """Returns what the cgroups of a container say of its CPU time, in either version."""
    files = [
        Path(cgroup, name) for cgroup in cgroups(container_id) for name in ("cpu.cfs_quota_us", "cpu.max")
    ]
    return {file.read_text().split()[0] for file in files if file.exists()}


async def test_limit_of_cpu_time_is_taken_away(reached: shimpy.Container) -> None:
    await reached.update(cpus=0.5)
    assert cpu_limits(reached.id) == {"50000"}
    await reached.update(cpus=math.inf)
    assert cpu_limits(reached.id) <= {"-1", "max"}


async def test_pids_are_those_of_the_container(reached: shimpy.Container) -> None:
    pids = await reached.pids()
    assert reached.pid in pids
    assert set(pids) <= inside(reached.id) | set(pids)


async def test_out_of_memory_is_told_with_the_result(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with sandbox(bundle, new_id()) as container:
        await container.update(memory=20 << 20)
        hog = await container.run(["sh", "-c", "head -c 100000000 /dev/zero | tail -c 100000000 >/dev/null"])
        after = await container.run(["true"])
    assert (hog.oom, after.oom) == (True, False)


async def test_out_of_memory_ends_the_container_of_a_command_of_its_own(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    path = bundle("sh", "-c", "head -c 100000000 /dev/zero | tail -c 100000000", memory=20 << 20)
    async with shimpy.in_process() as client:
        assert (await client.run(new_id(), path)).oom


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({}, ValueError),
        ({"memory": "64m"}, TypeError),
        ({"memory": True}, TypeError),
        ({"memory": 0}, ValueError),
        ({"memory_swap": 1 << 20}, ValueError),
        ({"memory": 2 << 20, "memory_swap": 1 << 20}, ValueError),
        ({"cpus": "1"}, TypeError),
        ({"cpus": 0}, ValueError),
        ({"cpus": float("nan")}, ValueError),
        ({"pids": -1}, ValueError),
    ],
)
def test_limits_that_nothing_can_have_are_refused(limits: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        resources(**limits)


@pytest.mark.parametrize(("number", "error"), [("TERM", TypeError), (0, ValueError), (65, ValueError)])
async def test_signals_that_there_are_not_are_refused(
    sandboxed: shimpy.Container, number: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="signal"):
        await sandboxed.kill(number)
