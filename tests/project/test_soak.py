"""A short round of the soak; `make soak` is the long one. And what it has found."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.soak import Soak
from tests.support import containers
from tests.support.lives import KILLED, Life
from tests.support.machine import lacking
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio


async def test_random_containers_are_as_the_model_has_them() -> None:
    if lacks := lacking():
        pytest.skip(f"containers need {lacks}")
    soak = Soak()
    await soak.run(seconds=rounds(5, 120))
    assert soak.differences == [], f"seed {soak.seed}"


async def test_a_container_that_is_frozen_when_its_init_is_dead(live: Callable[..., Life]) -> None:
    """As by a Pause at the same time; the runtime refuses to delete what it takes to be paused."""
    life = live("sleep", "1000000")
    await life.create()
    await life.start()
    os.kill(life.pid, signal.SIGKILL)
    assert await life.exit_of(life.pid) == KILLED
    states = [
        file for cgroup in containers.cgroups(life.id) if (file := Path(cgroup) / "freezer.state").exists()
    ]
    if not states:
        pytest.skip("this machine has no version 1 freezer")
    states[0].write_text("FROZEN")
    assert await life.delete() == KILLED


async def test_a_copy_of_the_runtime_that_is_still_mounted(live: Callable[..., Life]) -> None:
    """As a runc leaves it that is killed in the middle of an exec; its delete leaves it there, too."""
    life = live("sleep", "1000000")
    await life.create()
    state = Path("/run/runc") / life.id
    copy = state / "runc.abcdef"
    copy.touch()
    subprocess.run(["mount", "--bind", "/proc/self/exe", copy], check=True)
    await life.delete()
    assert not state.exists()
    assert str(copy) not in Path("/proc/self/mounts").read_text()
