"""A pid that the kernel has given out again is never mistaken for the process that had it before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import containers, pidreuse, pidreuse_commands, pids
from tests.support.lives import KILLED
from tests.support.paths import ROOT


def run(scenario: Callable[..., object], *arguments: str) -> dict[str, Any]:
    """Runs a scenario of `support` where it can choose pids, and returns what it has found."""
    if lacks := pids.lacking():
        pytest.skip(f"pids cannot be chosen without {lacks}")
    done = subprocess.run(
        [
            *(*pids.INSIDE, sys.executable, "-W", "ignore::DeprecationWarning"),
            *("-m", scenario.__module__, scenario.__name__, *arguments),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def contained(bundle: Callable[..., str], new_id: Callable[[], str]) -> Callable[..., dict[str, Any]]:
    """Runs a scenario with a container."""

    def contained(scenario: Callable[..., object]) -> dict[str, Any]:
        container_id = new_id()
        found = run(scenario, "--id", container_id, "--bundle", bundle("sleep", "1000000"))
        assert containers.cgroups(container_id) == []
        return found

    return contained


def test_delete_of_an_exec_does_not_reach_a_stranger_with_its_pid(
    contained: Callable[..., dict[str, Any]],
) -> None:
    found = contained(pidreuse.delete_exec)
    assert found == {"state": "STOPPED", "status": 7, "untouched": True, "listed": False}


def test_a_child_of_the_program_with_an_execs_pid_keeps_its_status(
    contained: Callable[..., dict[str, Any]],
) -> None:
    assert contained(pidreuse.delete_exec_beside_a_child) == {"status": 7, "waited": 9}


def test_delete_of_init_does_not_reach_strangers_with_the_containers_pids(
    contained: Callable[..., dict[str, Any]],
) -> None:
    """Neither with that of init, for which the runtime looks too, nor with that of an exec."""
    assert contained(pidreuse.delete_init) == {
        "states": ["STOPPED", "STOPPED"],
        "status": KILLED,
        "untouched": [True, True],
        "listed": [],
    }


def test_resize_of_an_exec_whose_pid_is_a_strangers_is_refused(
    contained: Callable[..., dict[str, Any]],
) -> None:
    assert contained(pidreuse.resize) == {"refused": True, "untouched": True}


def test_closing_the_shim_does_not_reach_a_stranger_with_an_execs_pid(
    contained: Callable[..., dict[str, Any]],
) -> None:
    assert contained(pidreuse.close)["untouched"]


def test_a_dead_exec_gives_way_to_one_that_has_its_pid(contained: Callable[..., dict[str, Any]]) -> None:
    """State, Pty, Delete and the events are the new one's; what other dead ones have left is still theirs."""
    found = contained(pidreuse.exec_again)
    assert found.pop("again")
    told, states = found.pop("told"), found.pop("states")
    assert found == {
        "state": "RUNNING",
        "last": True,
        "status": KILLED,
        "statuses": True,
        "listed": False,
    }
    assert {*states} <= {"STOPPED"}
    assert told == ["EXEC_ADDED", "EXIT"] * (len(told) // 2)


def test_a_command_that_is_dead_is_not_killed_in_who_has_its_pid() -> None:
    """A command that is called off when it has just ended of its own accord."""
    assert run(pidreuse_commands.kill_command) == {"code": 255, "untouched": True}


def test_a_child_of_the_program_with_a_commands_pid_keeps_its_status() -> None:
    assert run(pidreuse_commands.wait_for_command) == {"code": 255, "waited": 9}


def test_a_child_of_the_program_in_a_group_with_a_commands_pid_keeps_its_status() -> None:
    """The group of a command that has failed is looked through for what the command has left."""
    assert run(pidreuse_commands.wait_for_a_group) == {"code": 1, "waited": 9}


def test_a_stranger_with_the_pid_of_a_commands_child_is_not_killed_with_the_command() -> None:
    found = run(pidreuse_commands.kill_command_whose_child_is_gone)
    assert found == {"taken": True, "code": -9, "untouched": True}
