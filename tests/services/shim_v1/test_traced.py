"""Containers whose processes trace others and never wait for them: the zombies are theirs (ptrace(2))."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import shimpy
from tests.support.bundles import Spec
from tests.support.kinds import RUNNING, STOPPED
from tests.support.leaks import cpu_time, eventually, zombies
from tests.support.lives import KILLED, Life
from tests.support.paths import ROOT
from tests.support.sandboxes import sandbox
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

# Where it is in a container.
TRACER = "/tmp/tracer"


@pytest.fixture(scope="session")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in support/tracer.c."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("who traces others in a container is a program in C, and there is no C compiler")
    program = tmp_path_factory.mktemp("tracer") / "tracer"
    source = ROOT / "tests" / "support" / "tracer.c"
    subprocess.run([compiler, "-O2", "-static", "-o", program, source], check=True)
    return program


@pytest.fixture
def equipped(tracer: Path) -> dict[str, Any]:
    """What a bundle is made with to have the program at `TRACER`."""

    def change(spec: Spec) -> None:
        spec["mounts"].append(
            {"destination": TRACER, "type": "bind", "source": str(tracer), "options": ["bind", "ro"]}
        )

    return {"change": change}


def is_traced(pid: int) -> bool:
    """Returns whether a process, running or a zombie, has a tracer."""
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


class Traced:
    """A container of a server in which one process traces two others.

    Attributes:
        life: the container.
        processes: the two.
        tracer: the one.
    """

    def __init__(self, life: Life) -> None:
        self.life = life

    async def start(self) -> None:
        await self.life.create()
        await self.life.start()
        self.processes = [await self.life.exec("sleep", "1000") for _ in range(2)]
        self.tracer = await self.life.exec(TRACER, "namespace", "1")
        await eventually(lambda: all(map(is_traced, self.processes)))


@pytest.fixture
async def traced(live_served: Callable[..., Life], equipped: dict[str, Any]) -> AsyncIterator[Traced]:
    traced = Traced(live_served("sleep", "1000000", **equipped))
    await traced.start()
    yield traced
    assert await traced.life.delete() == KILLED


async def test_the_exit_of_a_process_that_another_traces_is_published(traced: Traced) -> None:
    life, (pid, other) = traced.life, traced.processes
    os.kill(pid, signal.SIGTERM)
    # On its way to its end it stops, and its tracer does not let it go on; SIGKILL it cannot hold up.
    os.kill(pid, signal.SIGKILL)
    assert await life.exit_of(pid) == KILLED
    assert is_traced(pid)
    states = await life.states()
    assert (states[pid], states[other]) == (STOPPED, RUNNING)


async def test_a_delete_of_a_process_that_another_traces_ends(traced: Traced) -> None:
    pid, _ = traced.processes
    async with asyncio.timeout(20):
        assert await traced.life.delete(pid) == KILLED
    assert pid not in await traced.life.states()
    assert is_traced(pid)


async def test_zombies_of_a_tracer_are_reaped_when_it_has_ended(traced: Traced, server: Server) -> None:
    for pid in traced.processes:
        assert await traced.life.delete(pid) == KILLED
    assert {*traced.processes} <= {*zombies(server.pid)}
    await traced.life.delete(traced.tracer)
    await eventually(lambda: not zombies(server.pid))


async def test_zombies_of_a_tracer_do_not_keep_the_shim_busy(traced: Traced, server: Server) -> None:
    for pid in traced.processes:
        os.kill(pid, signal.SIGKILL)
        await traced.life.exit_of(pid)
    before = cpu_time(server.pid)
    await asyncio.sleep(2)
    assert cpu_time(server.pid) - before < 0.05 * 2


async def test_a_program_that_its_own_child_traces_runs_to_its_end(
    bundle: Callable[..., str], new_id: Callable[[], str], equipped: dict[str, Any]
) -> None:
    async with sandbox(bundle, new_id(), **equipped) as container, asyncio.timeout(20):
        for status in (0, 7):
            result = await container.run([TRACER, "parent", str(status)])
            assert result.exit_status == status
        await eventually(lambda: not zombies())


async def test_a_run_in_a_container_that_another_container_traces_ends_in_time(
    bundle: Callable[..., str], new_id: Callable[[], str], equipped: dict[str, Any]
) -> None:
    """One that sees all pids of the machine, and may trace (CAP_SYS_PTRACE)."""

    def sees_all(spec: Spec) -> None:
        equipped["change"](spec)
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_SYS_PTRACE")

    async with asyncio.timeout(40), sandbox(bundle, new_id()) as victim, shimpy.in_process() as client:
        tracer = bundle(TRACER, "namespace", str(victim.pid), own_pid_namespace=False, change=sees_all)
        init = await client.create(new_id(), tracer)
        running = asyncio.ensure_future(victim.run(["sleep", "1000"], timeout=3))

        async def processes() -> list[int]:
            return [one.pid for one in (await victim.state()).processes if one.pid != victim.pid]

        while not (pids := await processes()):
            await asyncio.sleep(0.01)
        # Not before: the runtime's own program, when it is traced, never gets to that.
        await client.start()
        await eventually(lambda: is_traced(pids[0]))
        result = await running
        assert result.timed_out
        assert result.exit_status == KILLED
        assert is_traced(pids[0])
        assert await client.delete(init) == KILLED
