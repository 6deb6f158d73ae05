"""Containers that may write to their cgroup mount and nest cgroups deeper than any path can name."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.cgroup.hierarchies import Hierarchies
from shimpy.core.cgroup.walk import walk
from tests.support import residue
from tests.support.bundles import Spec
from tests.support.cgroups import root
from tests.support.fifos import Fifo
from tests.support.kinds import EXIT, OOM
from tests.support.leaks import eventually
from tests.support.lives import KILLED, Life

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

Prepare = Callable[..., Life]

DEPTH = 22  # with names of 239 letters: well over the 4,096 bytes of PATH_MAX

# The path of the working directory is longer than what getcwd(2) tells, so the shell complains of each step.
NEST = f"""
nest() {{
    cd "$1" || exit
    for i in $(seq {DEPTH}); do
        mkdir "$name" && cd -P "$name" || exit
    done 2>/dev/null
}}
name=$(printf %239s | tr ' ' x)
"""

EVERYWHERE = f"""
{NEST}
for hierarchy in /sys/fs/cgroup/*; do
    (nest "$hierarchy"; sh -c 'echo 0 >cgroup.procs && exec sleep 1000' &) 2>/dev/null
done
"""

FROZEN = f"""
{NEST}
nest /sys/fs/cgroup/freezer
sleep 1000 &
echo $! >cgroup.procs
echo FROZEN >freezer.state
until [ "$(cat freezer.state)" = FROZEN ]; do :; done
"""

pytestmark.append(
    pytest.mark.skipif(
        not any("freezer" in mount.controllers for mount in Hierarchies().mounts),
        reason="the containers of these tests are shown cgroups of version 1",
    )
)


def writable_cgroups(spec: Spec) -> None:
    for mount in spec["mounts"]:
        if mount["type"] == "cgroup":
            mount["options"].remove("ro")


def depth(container_id: str) -> int:
    """Returns how many cgroups there are of a container in the freezer's hierarchy."""
    return sum(
        sum(1 for _ in walk(cgroup))
        for cgroup in residue.cgroups(container_id)
        if "/freezer/" in cgroup and not os.path.dirname(cgroup).endswith(container_id)
    )


async def nested(live: Prepare, fifo: Callable[[str], Fifo], program: str, **options: object) -> Life:
    """Starts a container, and returns it when its program has said "up"."""
    life = live("sh", "-c", f"{program}\necho up; exec sleep 1000", change=writable_cgroups, **options)
    output = fifo("output")
    reading = output.read_some(3)
    await life.create(stdout=str(output))
    await life.start()
    assert await reading == b"up\n"
    return life


@pytest.mark.parametrize("own_pid_namespace", [True, False], ids=["own pids", "shared pids"])
async def test_delete_takes_processes_and_cgroups_of_every_depth(
    live: Prepare, fifo: Callable[[str], Fifo], own_pid_namespace: bool
) -> None:
    life = await nested(live, fifo, EVERYWHERE, own_pid_namespace=own_pid_namespace)
    assert depth(life.id) == 1 + DEPTH
    async with asyncio.timeout(15):
        assert await life.delete() == KILLED
    assert residue.cgroups(life.id) == []


@pytest.mark.parametrize("own_pid_namespace", [True, False], ids=["own pids", "shared pids"])
async def test_delete_takes_a_process_that_is_frozen_at_the_bottom(
    live: Prepare, fifo: Callable[[str], Fifo], own_pid_namespace: bool
) -> None:
    life = await nested(live, fifo, FROZEN, own_pid_namespace=own_pid_namespace)
    async with asyncio.timeout(15):
        assert await life.delete() == KILLED
    assert residue.cgroups(life.id) == []


async def test_an_init_that_dies_takes_what_is_frozen_at_the_bottom_with_it(
    live: Prepare, fifo: Callable[[str], Fifo]
) -> None:
    life = await nested(live, fifo, FROZEN, own_pid_namespace=False)
    os.kill(life.pid, signal.SIGKILL)
    assert await life.exit_of(life.pid) == KILLED
    await eventually(lambda: not any(map(_procs, residue.cgroups(life.id))))
    assert await life.delete() == KILLED


def _procs(cgroup: str) -> list[str]:
    return [
        Path(f"/proc/self/fd/{each}/cgroup.procs").read_text()
        for each in walk(cgroup)
        if Path(f"/proc/self/fd/{each}/cgroup.procs").read_text()
    ]


async def test_delete_of_an_exec_takes_what_it_has_nested(live: Prepare, fifo: Callable[[str], Fifo]) -> None:
    life = await nested(live, fifo, "")
    output = fifo("exec")
    reading = output.read_some(3)
    script = f"{NEST}\nnest /sys/fs/cgroup/freezer/exec-*\necho 0 >cgroup.procs; echo up; exec sleep 1000"
    pid = await life.exec("sh", "-c", script, stdout=str(output))
    assert await reading == b"up\n"
    assert depth(life.id) == 2 + DEPTH
    async with asyncio.timeout(15):
        assert await life.delete(pid) == KILLED
    assert depth(life.id) == 1
    assert residue.processes(life.id) == [life.pid]


async def test_delete_removes_what_create_has_made_above(live: Prepare) -> None:
    """The runtime leaves it; not so what was there before, or what another container is in."""

    def below(path: str) -> Callable[[Spec], None]:
        return lambda spec: spec["linux"].update(cgroupsPath=path)

    life = live("sleep", "1000")
    above = f"/{life.id}-above"
    life.bundle = live("sleep", "1000", change=below(f"{above}/made/{life.id}")).bundle
    (root("freezer") / above[1:]).mkdir()
    await life.create()
    assert (root("freezer") / above[1:] / "made" / life.id).exists()
    assert (root("memory") / above[1:] / "made" / life.id).exists()
    assert await life.delete() == KILLED
    assert residue.cgroups(f"{life.id}-above") == [str(root("freezer") / above[1:])]
    (root("freezer") / above[1:]).rmdir()


async def test_an_oom_at_the_bottom_is_told_before_the_exit(
    live: Prepare, fifo: Callable[[str], Fifo]
) -> None:
    """Version 1 counts it in the cgroup where the process is, whose path nobody can write down."""
    life = await nested(live, fifo, "", memory=24 << 20)
    script = f"{NEST}\nnest /sys/fs/cgroup/memory\necho 0 >cgroup.procs; exec tail /dev/zero"
    pid = await life.exec("sh", "-c", script)
    assert await life.exit_of(pid) == KILLED
    assert [(event.type, event.pid) for event in life.recorder.seen[-2:]] == [(OOM, life.pid), (EXIT, pid)]
