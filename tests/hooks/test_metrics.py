"""Metrics, as Prometheus reads them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

import shimpy
from shimpy.hooks.metrics import ContainerMetrics
from shimpy.hooks.metrics_server import MetricsDirectory
from tests.support.machine import RUNTIME

pytestmark = pytest.mark.anyio


async def test_what_is_counted(bundle: Callable[..., str], new_id: Callable[[], str]) -> None:
    registry = CollectorRegistry()
    hooks = ContainerMetrics(registry=registry)
    async with (
        shimpy.in_process(runtime=RUNTIME, hooks=hooks) as shim,
        shim.container(new_id(), bundle("sh", "-c", "sleep 1000000 & wait")) as container,
    ):
        await container.run(["true"])
        await container.run(["false"])
        with pytest.raises(shimpy.NotFoundError):
            await container.run(["no-such-program"])
        running = registry.get_sample_value("shimpy_containers_running", {"namespace": ""})

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"shimpy_{name}", {"namespace": "", **labels})

    assert running == 1
    assert value("containers_running") == 0
    assert value("processes_started_total", kind="init") == 1
    assert value("processes_started_total", kind="exec") == 2
    assert value("processes_failed_total", kind="exec", status="NOT_FOUND") == 1
    assert value("processes_exited_total", kind="exec", outcome="success") == 1
    assert value("processes_exited_total", kind="exec", outcome="failure") == 1
    assert value("processes_exited_total", kind="init", outcome="killed") == 1
    assert value("start_seconds_count", kind="exec") == 2
    assert 0 < (value("start_seconds_sum", kind="exec") or 0) < 60


async def test_oom_kills() -> None:
    registry = CollectorRegistry()
    await ContainerMetrics(registry=registry).oom(shimpy.HookContainer("web", "default", "/bundle", {}))

    assert registry.get_sample_value("shimpy_oom_kills_total", {"namespace": "default"}) == 1


_SHIM = """
import asyncio, sys
import shimpy
from shimpy.hooks.metrics import ContainerMetrics
container = shimpy.HookContainer("web", "default", "/bundle", {})
program = ("true",), (), "/", shimpy.User(), False
process = shimpy.HookProcess(container, "id", False, "", *program, started_at=1.0)
asyncio.run(ContainerMetrics(directory=sys.argv[1]).started(process))
"""


def test_many_processes_have_one_directory(tmp_path: Path) -> None:
    """What was counted stays when a shim has ended; the containers of one are gone with it."""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", _SHIM, tmp_path], check=True)
    registry = CollectorRegistry()
    registry.register(MetricsDirectory(str(tmp_path)))
    text = generate_latest(registry).decode()

    assert 'shimpy_processes_started_total{kind="init",namespace="default"} 2.0' in text
    assert 'shimpy_containers_running{namespace="default"} 2.0' not in text
