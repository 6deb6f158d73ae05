"""Shims and containerds that die, and containers that share a shim."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.daemon.containerd.sockets import path_of
from tests.support.containerd import Containerd
from tests.support.containers import cgroups
from tests.support.leaks import alive, eventually
from tests.support.shimv2 import gone
from tests.support.time_scale import SCALE

pytestmark = pytest.mark.anyio

NewId = Callable[[], str]

_NEEDS_SPEED = pytest.mark.skipif(
    SCALE > 1, reason="containerd gives a delete five seconds, however slow the machine is"
)


def init_pid(containerd: Containerd, name: str) -> int:
    return int((containerd.bundle(name) / "init.pid").read_text())


@_NEEDS_SPEED
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_of_a_shim_that_dies_nothing_is_left(
    containerd: Containerd, running: str, tmp_path: Path, number: signal.Signals
) -> None:
    pid, shim, bundle = (
        init_pid(containerd, running),
        containerd.shim_pid(running),
        containerd.bundle(running),
    )
    address = path_of(str(containerd.folder / "c.sock"), containerd.namespace, running)
    assert os.path.exists(address)
    with containerd.events(tmp_path / "events") as told:
        os.kill(shim, number)
        events = told(until="/tasks/delete", of=running)

    assert [topic for topic, _ in events][-2:] == ["/tasks/exit", "/tasks/delete"]
    assert {event["exit_status"] for topic, event in events if topic == "/tasks/exit"} == {137}
    assert not alive(pid)
    await gone(shim)
    assert cgroups(running) == []
    assert not bundle.exists()
    assert not os.path.exists(address)
    assert containerd.tasks() == []
    assert os.listdir(f"/run/containerd/runc/{containerd.namespace}") == []


async def test_a_task_outlives_containerd(containerd: Containerd, running: str) -> None:
    pid, shim = init_pid(containerd, running), containerd.shim_pid(running)
    containerd.restart()

    assert containerd.status(running) == "RUNNING"
    assert (alive(pid), containerd.shim_pid(running)) == (True, shim)
    assert containerd.ctr("tasks", "exec", "--exec-id", "one", running, "echo", "x").stdout == b"x\n"


async def test_its_events_reach_the_next_containerd(
    containerd: Containerd, running: str, tmp_path: Path
) -> None:
    containerd.restart()
    with containerd.events(tmp_path / "events") as told:
        containerd.ctr("tasks", "kill", "--signal", "SIGKILL", running)
        events = told(until="/tasks/exit", of=running)

    assert events[-1][1]["exit_status"] == 137


async def test_a_group_has_one_shim_that_ends_with_the_last(
    containerd: Containerd, rootfs: Path, new_id: NewId
) -> None:
    group = new_id()
    names = [group, new_id(), new_id()]
    for name in names:
        containerd.run(
            "-d", "--annotation", f"io.containerd.runc.v2.group={group}",
            rootfs=rootfs, name=name, command=["sleep", "1000"],
        )  # fmt: skip
    shim = containerd.shim_pid(group)
    for name in names[1:]:
        with pytest.raises(AssertionError, match="no shim"):
            containerd.shim_pid(name)
    for name in names[:-1]:
        containerd.remove(name)
    assert containerd.ctr("tasks", "exec", "--exec-id", "one", names[-1], "echo", "x").stdout == b"x\n"
    assert containerd.status(names[-1]) == "RUNNING"
    assert alive(shim)
    containerd.remove(names[-1])

    await gone(shim)


@_NEEDS_SPEED
async def test_a_shim_that_dies_takes_its_group_along(
    containerd: Containerd, rootfs: Path, new_id: NewId
) -> None:
    group = new_id()
    names = [group, new_id()]
    for name in names:
        containerd.run(
            "-d", "--annotation", f"io.containerd.runc.v2.group={group}",
            rootfs=rootfs, name=name, command=["sleep", "1000"],
        )  # fmt: skip
    pids = [init_pid(containerd, name) for name in names]
    os.kill(containerd.shim_pid(group), signal.SIGKILL)

    await eventually(lambda: not any(map(cgroups, names)))
    assert [alive(pid) for pid in pids] == [False, False]
    await eventually(lambda: containerd.tasks() == [])
