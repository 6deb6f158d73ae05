"""A container by the name that `shimpy ps` shows: of a program, which has no socket, or of a shim."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from shimpy.cli.container_commands import current
from shimpy.client import machine
from shimpy.core.registry import OwnedContainer, ProcessIdentity
from shimpy.errors import FailedPreconditionError
from tests.support.commandline import command_line
from tests.support.leaks import eventually
from tests.support.programs import Program
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a command line to its end, where no socket is named."""
    with command_line() as line:
        environment = {name: value for name, value in os.environ.items() if name != "SHIMPY_SOCKET"}
        yield lambda *args, **options: line.run(*args, env=environment, **options)


@pytest.fixture
async def start(
    rootfs: Path, bundle: Callable[..., str], new_id: Callable[[], str]
) -> AsyncIterator[Callable[..., Awaitable[Program]]]:
    """Starts programs with a container each, without a socket; all of it ends with the test."""
    started: list[Program] = []

    async def start(*init: str) -> Program:
        program = Program("in_process", rootfs, bundle(*init), new_id())
        started.append(program)
        await eventually(lambda: len(program.pids()) == 2)
        return program

    yield start
    for program in started:
        program.process.kill()
        program.process.wait()
        await program.gone(within=30)


@pytest.fixture
async def program(start: Callable[..., Awaitable[Program]]) -> Program:
    """One whose init ends at SIGTERM."""
    return await start("sh", "-c", "trap 'exit 3' TERM; sleep 1000000 & wait")


async def test_top_lists_a_program_s_container(run: Run, program: Program) -> None:
    done = run("top", "--json", program.container_id)
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert {process["pid"] for process in shown} == set(program.pids()), done.stderr
    assert "sleep 1000000" in {process["command"] for process in shown}


async def test_stats_of_a_program_s_container(run: Run, program: Program) -> None:
    done = run("stats", "--no-stream", "--json", program.container_id)
    shown = json.loads(done.stdout or "{}")
    assert (shown.get("id"), shown.get("pids")) == (program.container_id, 2), done.stderr
    assert shown["memory"] > 0


async def test_kill_ends_a_program_s_container_as_any_end_does(run: Run, program: Program) -> None:
    done = run("kill", program.container_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert program.process.wait() == 0
    ended = run("kill", program.container_id)
    assert (ended.returncode, f"no container {program.container_id}" in ended.stderr) == (3, True)


async def test_kill_sends_the_signal_that_is_named(run: Run, program: Program) -> None:
    assert run("kill", "--signal", "URG", program.container_id).returncode == 0
    assert len(program.pids()) == 2
    assert run("kill", program.container_id, "TERM").returncode == 0
    assert program.process.wait() == 0


async def test_kill_all_reaches_every_process(run: Run, start: Callable[..., Awaitable[Program]]) -> None:
    program = await start("sh", "-c", "trap '' TERM; (trap - TERM; exec sleep 1000000) & wait; exit 4")
    assert run("kill", "--all", program.container_id, "TERM").returncode == 0
    assert program.process.wait() == 0


@pytest.mark.parametrize("deaf", [False, True])
async def test_stop_ends_a_program_s_container(
    run: Run, start: Callable[..., Awaitable[Program]], deaf: bool
) -> None:
    action = "" if deaf else "exit 3"
    program = await start("sh", "-c", f"trap '{action}' TERM; sleep 1000000 & while :; do wait; done")
    done = run("stop", "--timeout", "0.2" if deaf else "1000", program.container_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert program.process.wait() == 0


async def test_files_of_a_program_s_container(run: Run, program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("data")
    inside = f"{program.container_id}:/tmp/file"
    done = run("cp", tmp_path / "file", inside)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(f"/proc/{program.pids()[0]}/root/tmp/file").read_text() == "data"
    assert run("cp", inside, tmp_path / "back").returncode == 0
    assert (tmp_path / "back").read_text() == "data"


async def test_a_shim_s_container_is_found_by_its_name(
    run: Run, server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    name = new_id()
    for args in (("create", name, bundle("sleep", "1000000")), ("start",)):
        assert run(*args, "--socket", server.socket).returncode == 0
    assert "sleep 1000000" in run("top", name).stdout
    assert run("kill", name).returncode == 0
    await eventually(lambda: run("top", name).returncode == 0 and run("top", name).stdout == "")
    ended = run("kill", name)
    assert (ended.returncode, "has ended" in ended.stderr) == (5, True), ended.stderr
    assert run("delete", "--socket", server.socket).stdout == "137\n"


async def test_a_name_that_nothing_has_is_refused(run: Run) -> None:
    for args in (("kill", "nobody"), ("stop", "nobody"), ("top", "nobody"), ("cp", "nobody:/x", "/tmp")):
        done = run(*args)
        assert (done.returncode, "there is no container nobody; shimpy ps" in done.stderr) == (3, True)


async def test_docker_s_short_option_for_the_signal_is_explained(run: Run) -> None:
    done = run("kill", "-s", "TERM", "box")
    assert (done.returncode, "--signal TERM" in done.stderr) == (2, True)
    assert run("kill", "box", "TERM", "--signal", "KILL").returncode == 2


def record(pid: int, *, birth: int | None = None, cgroups: tuple[str, ...] = ()) -> OwnedContainer:
    """Returns what a program would have written down of a process."""
    born = ProcessIdentity.of(pid).birth if birth is None else birth
    return OwnedContainer("box", "/none", "/none/runc", None, cgroups, (), pid, born)


async def test_a_process_outside_of_its_cgroup_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cgroup.procs").write_text("")
    one = machine.FoundContainer(record(os.getpid(), cgroups=(str(tmp_path),)), "process 1", "")
    monkeypatch.setattr(machine, "find_container", lambda _: one)
    with pytest.raises(FailedPreconditionError, match=f"process {os.getpid()} is not in the cgroup"):
        async with current(None, "box"):
            pass


async def test_one_name_of_two_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [machine.FoundContainer(record(os.getpid()), f"process {number}", "") for number in (1, 2)]
    ended = machine.FoundContainer(record(os.getpid(), birth=1), "process 3", "")
    monkeypatch.setattr(machine, "_all", lambda: iter([*two, ended]))
    with pytest.raises(FailedPreconditionError, match="2 containers box: those of process 1 and process 2"):
        machine.find_container("box")
    monkeypatch.setattr(machine, "_all", lambda: iter([two[0], ended]))
    assert machine.find_container("box") == two[0]
    monkeypatch.setattr(machine, "_all", lambda: iter([ended]))
    with pytest.raises(FailedPreconditionError, match="box of process 3 does not run"):
        machine.find_container("box")
