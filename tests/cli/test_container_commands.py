"""The commands that have docker's names, at the socket of a shim."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import typer

from shimpy.cli.container_commands import read_signal
from tests.support.commandline import command_line
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def line() -> Iterator[Run]:
    """Runs a command line to its end."""
    with command_line() as line:
        yield line.run


@pytest.fixture
def name(new_id: Callable[[], str]) -> str:
    """The container's."""
    return new_id()


@pytest.fixture
async def run(line: Run, server: Server, bundle: Callable[..., str], name: str) -> AsyncIterator[Run]:
    """Runs one at a shim that has a container, whose init ends at SIGTERM."""

    def run(*args: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SHIMPY_SOCKET": str(server.socket), **variables}
        return line(*args, env=environment)

    path = bundle("sh", "-c", "trap 'exit 3' TERM; sleep 1000000 & wait", env={"KEPT": "kept"})
    for command in (("create", name, path), ("start",)):
        done = run(*command)
        assert done.returncode == 0, done.stderr
    yield run
    run("delete")


async def test_a_timeout_that_cannot_be_meant_is_one_line(run: Run) -> None:
    done = run("exec", "--timeout", "-1", "true")
    assert (done.returncode, done.stderr) == (125, "shimpy: timeout must be >= 0, not -1.0\n")


async def test_the_container_s_name_is_no_program(run: Run, name: str) -> None:
    done = run("exec", name, "true")
    assert (done.returncode, "exec takes no container's name" in done.stderr) == (127, True)
    assert "exec takes no" not in run("exec", "other", "true").stderr


async def test_stats(run: Run, name: str) -> None:
    done = run("stats", "--no-stream")
    shown_name, cpu, memory, _, pids = done.stdout.rstrip("\n").split("\t")
    assert (shown_name, cpu[-1], memory.split(" / ")[1], int(pids) >= 2) == (name, "%", "unlimited", True)
    shown = json.loads(run("stats", "--no-stream", "--json").stdout)
    assert shown["id"] == name
    assert shown["memory"] > 0


async def test_top(run: Run, name: str) -> None:
    shown = [json.loads(line) for line in run("top", "--json").stdout.splitlines()]
    assert "sleep 1000000" in {process["command"] for process in shown}
    assert "sleep 1000000" in run("top", name).stdout


async def test_kill_and_stop(run: Run, name: str) -> None:
    assert run("kill", "--signal", "SIGTERM", name).returncode == 0
    assert run("stop").returncode == 0
    ended = run("kill")
    assert (ended.returncode, "has ended" in ended.stderr) == (5, True), ended.stderr
    assert run("delete").stdout == "3\n"


async def test_another_container_s_name_is_refused(run: Run, name: str) -> None:
    for args in (("stats", "other"), ("top", "other"), ("kill", "other"), ("cp", "other:/tmp", "/tmp")):
        done = run(*args)
        assert (done.returncode, f"has container {name}, not other" in done.stderr) == (3, True)


async def test_files_are_copied_both_ways(run: Run, name: str, tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("data")
    assert run("cp", tmp_path / "a:b", f"{name}:/tmp/file").returncode == 0
    assert run("exec", "cat", "/tmp/file").stdout == "data"
    assert run("cp", f"{name}:tmp/file", tmp_path / "back").returncode == 0
    assert (tmp_path / "back").read_text() == "data"


async def test_archives_go_through_pipes(run: Run, name: str, server: Server) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        entry = tarfile.TarInfo("from-tar")
        entry.size, entry.uid = 2, 9
        tar.addfile(entry, io.BytesIO(b"ok"))
    command = [str(Path(sys.executable).with_name("shimpy")), "cp", "--socket", str(server.socket)]
    subprocess.run([*command, "-", f"{name}:/tmp"], input=data.getvalue(), check=True)
    assert run("exec", "stat", "-c", "%u", "/tmp/from-tar").stdout == "9\n"
    out = subprocess.run([*command, f"{name}:/tmp/from-tar", "-"], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert tar.getnames() == ["from-tar"]


async def test_one_of_two_paths_is_in_the_container(line: Run) -> None:
    for paths in (("here", "there"), ("box:/a", "box:/b"), ("-", "-")):
        done = line("cp", *paths)
        assert (done.returncode, "CONTAINER:PATH" in done.stderr) == (2, True)


async def test_exec_is_as_docker_s(run: Run) -> None:
    script = "echo $KEPT $NEW $FROM_HERE; pwd; id -u; id -g"
    options = ("-e", "NEW=new", "-e", "FROM_HERE", "-e", "NOT_THERE", "-w", "/tmp", "-u", "12:34")
    done = run("exec", *options, "sh", "-c", script, FROM_HERE="here")
    assert done.stdout.split() == ["kept", "new", "here", "/tmp", "12", "34"]
    nobody = run("exec", "-u", "nobody-here", "true")
    assert (nobody.returncode, "no user nobody-here" in nobody.stderr) == (127, True)


async def test_at_its_timeout_an_exec_is_killed(run: Run) -> None:
    done = run("exec", "--timeout", "0.3", "sh", "-c", "echo started; sleep 1000")
    assert (done.returncode, done.stdout) == (124, "started\n")
    assert "time was up" in done.stderr
    assert run("exec", "--detach", "--timeout", "1", "true").returncode == 2


async def test_without_a_terminal_here_dash_t_is_warned_of(run: Run) -> None:
    done = run("exec", "-it", "true")
    assert (done.returncode, "stdin is not a terminal" in done.stderr) == (0, True)
    assert run("exec", "-t", "true").stderr == ""


@pytest.mark.parametrize("text", ["TERM", "sigterm", "SIGTERM", "15"])
def test_a_signal_is_named_or_numbered(text: str) -> None:
    assert read_signal(text) == 15


@pytest.mark.parametrize("text", ["0", "65", "NONE", "_IGN", ""])
def test_a_signal_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no signal"):
        read_signal(text)
