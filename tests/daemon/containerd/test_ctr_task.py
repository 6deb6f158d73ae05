"""What `ctr task` does with a container of shimpy's that runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pexpect
import pytest

from tests.support.containerd import Containerd
from tests.support.containers import cgroups
from tests.support.leaks import alive, eventually

pytestmark = pytest.mark.anyio


def test_exec(containerd: Containerd, running: str) -> None:
    done = containerd.ctr(
        "tasks",
        "exec",
        "--exec-id",
        "one",
        running,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 5",
        check=False,
    )

    assert (done.returncode, done.stdout) == (5, b"out\n")
    assert b"err\n" in done.stderr


def test_exec_reads_what_it_gets(containerd: Containerd, running: str) -> None:
    done = containerd.ctr("tasks", "exec", "--exec-id", "one", running, "cat", stdin=b"typed\n" * 10_000)

    assert done.stdout == b"typed\n" * 10_000


def test_an_exec_id_is_free_again(containerd: Containerd, running: str) -> None:
    told = [
        containerd.ctr("tasks", "exec", "--exec-id", "one", running, "echo", "x").stdout for _ in range(3)
    ]

    assert told == [b"x\n"] * 3


def test_exec_of_a_program_that_is_not_there(containerd: Containerd, running: str) -> None:
    done = containerd.ctr("tasks", "exec", "--exec-id", "one", running, "no-such-program", check=False)

    assert done.returncode != 0
    assert b"no-such-program" in done.stderr
    assert containerd.status(running) == "RUNNING"


def test_an_execs_directory_and_user(containerd: Containerd, running: str) -> None:
    done = containerd.ctr(
        "tasks",
        "exec",
        "--exec-id",
        "one",
        "--cwd",
        "/tmp",
        "--user",
        "1000",
        running,
        "sh",
        "-c",
        "pwd; id -u",
    )

    assert done.stdout == b"/tmp\n1000\n"


@pytest.fixture
def terminal(
    ctr_terminal: Callable[..., pexpect.spawn[str]], running: str
) -> Callable[..., pexpect.spawn[str]]:
    """Runs execs with a terminal."""
    return partial(ctr_terminal, "tasks", "exec", "-t", "--exec-id", "one", running)


def test_an_execs_terminal(terminal: Callable[..., pexpect.spawn[str]]) -> None:
    shell = terminal("sh", "-c", "tty; read line; echo got:$line:; exit 6")
    shell.expect("/dev/pts/0")
    shell.sendline("typed")
    shell.expect("got:typed:")
    shell.expect(pexpect.EOF)
    shell.wait()

    assert shell.exitstatus == 6


def test_pause_and_resume(containerd: Containerd, running: str) -> None:
    containerd.ctr("tasks", "pause", running)
    paused = containerd.status(running)
    containerd.ctr("tasks", "resume", running)

    assert (paused, containerd.status(running)) == ("PAUSED", "RUNNING")


def test_exec_in_a_paused_container_is_refused(containerd: Containerd, running: str) -> None:
    containerd.ctr("tasks", "pause", running)
    done = containerd.ctr("tasks", "exec", "--exec-id", "one", running, "true", check=False)
    containerd.ctr("tasks", "resume", running)

    assert done.returncode != 0
    assert b"paused" in done.stderr.lower()


@pytest.mark.parametrize("paused", [False, True])
async def test_kill(containerd: Containerd, running: str, paused: bool) -> None:
    if paused:
        containerd.ctr("tasks", "pause", running)
    containerd.ctr("tasks", "kill", "--signal", "SIGKILL", running)
    await eventually(lambda: containerd.status(running) == "STOPPED")
    done = containerd.ctr("tasks", "delete", running)

    assert b"137" in done.stderr
    assert containerd.tasks() == []


async def test_kill_of_an_exec(containerd: Containerd, running: str) -> None:
    containerd.ctr("tasks", "exec", "-d", "--exec-id", "one", running, "sleep", "1000")
    containerd.ctr("tasks", "kill", "--signal", "SIGKILL", "--exec-id", "one", running)
    await eventually(lambda: len(processes(containerd, running)) == 2)

    assert containerd.status(running) == "RUNNING"


def processes(containerd: Containerd, name: str) -> list[int]:
    """Returns the pids that `ctr tasks ps` lists."""
    lines = containerd.ctr("tasks", "ps", name).stdout.decode().splitlines()
    return [int(line.split()[0]) for line in lines[1:]]


async def test_ps(containerd: Containerd, running: str) -> None:
    def names() -> list[str]:
        return sorted(Path(f"/proc/{pid}/comm").read_text() for pid in processes(containerd, running))

    # The shell takes its time to start the other.
    await eventually(lambda: names() == ["sh\n", "sleep\n"])


def test_metrics(containerd: Containerd, running: str) -> None:
    told = containerd.ctr("tasks", "metrics", running).stdout.decode()
    values = {name: int(value) for name, value in re.findall(r"^([a-z_.]+)\s+(\d+)", told, re.MULTILINE)}

    assert values.get("memory.usage_in_bytes", values.get("memory.usage", 0)) > 0
    assert values.get("cpuacct.usage", values.get("cpu.usage_usec", 0)) > 0


def test_a_running_task_is_deleted_by_force_alone(containerd: Containerd, running: str) -> None:
    pids = processes(containerd, running)
    refused = containerd.ctr("tasks", "delete", running, check=False)
    containerd.ctr("tasks", "delete", "--force", running, check=False)

    assert refused.returncode != 0
    assert [pid for pid in pids if alive(pid)] == []
    assert cgroups(running) == []
    assert containerd.tasks() == []


def test_the_life_of_an_exec_is_told_in_order(containerd: Containerd, running: str, tmp_path: Path) -> None:
    with containerd.events(tmp_path / "events") as told:
        containerd.ctr("tasks", "exec", "--exec-id", "one", running, "sh", "-c", "exit 5", check=False)
        events = told(until="/tasks/exit", of=running)

    assert [topic for topic, _ in events] == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]
    assert events[2][1]["id"] == events[0][1]["exec_id"] == "one"
    assert events[2][1]["exit_status"] == 5


def test_pausing_is_told(containerd: Containerd, running: str, tmp_path: Path) -> None:
    with containerd.events(tmp_path / "events") as told:
        containerd.ctr("tasks", "pause", running)
        containerd.ctr("tasks", "resume", running)
        events = told(until="/tasks/resumed", of=running)

    assert [topic for topic, _ in events] == ["/tasks/paused", "/tasks/resumed"]


def test_no_socket_of_a_shim_is_left(containerd: Containerd, running: str) -> None:
    bundle = containerd.bundle(running)
    path = (bundle / "address").read_text().removeprefix("unix://")
    there = os.path.exists(path)
    containerd.remove(running)

    assert (there, os.path.exists(path)) == (True, False)
