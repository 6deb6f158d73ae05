"""What a program has started goes with it, however it ends; and its time limits hold while it is stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support import containers
from tests.support.leaks import alive, children, eventually
from tests.support.programs import WAYS, Program
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio


def frozen(container_id: str) -> bool:
    """Whether a container is frozen, in either version of cgroups."""
    states = {
        text.strip()
        for cgroup in containers.cgroups(container_id)
        for name in ("freezer.state", "cgroup.freeze")
        if (file := Path(cgroup) / name).exists()
        for text in [file.read_text()]
    }
    return bool(states & {"FROZEN", "1"})


# Seconds in which a program has done all that it does; it is killed at any moment in them.
_LONG_ENOUGH = {
    "run": 0.4,
    "cli": 1,
    "writable": 0.4,
    "in_process": 0.3,
    "exec": 0.4,
    "launch": 0.8,
    "warm": 0.8,
}


@pytest.fixture
async def start(
    closed_rootfs: Path, rootfs: Path, bundle: Callable[..., str], new_id: Callable[[], str]
) -> AsyncIterator[Callable[[str], Program]]:
    """Starts programs that make a container; none outlives the test."""
    started: list[Program] = []

    def start(way: str) -> Program:
        made = bundle("sh", "-c", "sleep 1000000 & sleep 1000000")
        root = closed_rootfs if way == "writable" else rootfs
        started.append(Program(way, root, made, new_id()))
        return started[-1]

    yield start
    for program in started:
        if program.process.returncode is None:
            program.end(signal.SIGKILL)
            await program.gone(within=30)


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_left_of_a_program_that_is_killed_with_all_running(
    way: str, start: Callable[[str], Program]
) -> None:
    program = start(way)
    if way not in ("run", "cli", "writable"):
        await eventually(lambda: len(program.pids()) == (4 if way == "exec" else 2))
    else:
        await eventually(lambda: any(each.pid for each in program.directory.containers()))

    program.end(signal.SIGKILL)

    await program.gone()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.timeout(600)
async def test_nothing_is_left_of_a_program_that_is_killed_at_any_moment(
    way: str, start: Callable[[str], Program]
) -> None:
    for number in range(rounds(1, 50)):
        chosen = random.Random(f"{way} {number} {os.getpid()}")
        program = start(way)
        time.sleep(chosen.uniform(0, _LONG_ENOUGH[way]))

        program.end(chosen.choice([signal.SIGKILL, signal.SIGTERM]))

        await program.gone()


async def test_what_is_frozen_goes_too(start: Callable[[str], Program]) -> None:
    program = start("pause")
    await eventually(lambda: frozen(program.container_id))

    program.end(signal.SIGKILL)

    await program.gone()


async def test_process_that_the_program_has_forked_does_not_keep_it_alive(
    start: Callable[[str], Program],
) -> None:
    program = start("fork")
    # What runs the exec, and has not ended yet, is its child as well.
    await eventually(lambda: len(program.pids()) == 4 and len(program.commands()) == 1)
    (fork,) = program.commands()

    program.end(signal.SIGKILL)

    await program.gone()
    assert alive(fork)
    os.kill(fork, signal.SIGKILL)


async def test_process_that_the_program_has_forked_may_end_before_it(start: Callable[[str], Program]) -> None:
    program = start("fork-ends")
    await eventually(lambda: len(program.pids()) == 4)

    assert program.process.poll() is None
    assert program.left().keys() >= {"directory", "containers"}


@pytest.mark.parametrize("way", ["leave", "leave-launched"])
async def test_container_that_is_to_be_left_running_outlives_the_program(
    way: str, start: Callable[[str], Program]
) -> None:
    program = start(way)
    await eventually(lambda: len(program.pids()) == 4)
    shims = children(program.process.pid)

    program.end(signal.SIGKILL)

    # The guardian has done all that it does when the program's directory is gone.
    await eventually(lambda: "directory" not in program.left())
    assert len(program.pids()) == 4
    assert all(map(alive, shims))
    for shim in shims:
        os.kill(shim, signal.SIGKILL)
    containers.remove(program.container_id)


@pytest.mark.parametrize("way", ["timeout-run", "timeout-exec"])
async def test_timeout_holds_while_the_program_is_stopped(way: str, start: Callable[[str], Program]) -> None:
    program = start(way)
    await eventually(lambda: program.runs() and len(program.pids()) == (2 if way == "timeout-run" else 4))

    program.process.send_signal(signal.SIGSTOP)

    left = 0 if way == "timeout-run" else 2
    await eventually(lambda: len(program.pids()) == left, within=7)
    # It is the program's to delete, when it goes on.
    assert program.left().keys() >= {"directory", "containers"}
    program.process.send_signal(signal.SIGCONT)
    assert program.process.wait() == 0
    await program.gone(within=30)
