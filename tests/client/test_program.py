"""A program's directory and its guardian: when they are made, and when they go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shimpy
from shimpy.client.program import _Program
from shimpy.client.program_guard import ProgramGuard
from shimpy.core import registry, tempdirs
from shimpy.core.runtime import environment
from tests.support.leaks import alive, eventually, opened_since

pytestmark = pytest.mark.anyio


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[_Program]:
    """What a program has that has just begun, in a registry of its own."""
    monkeypatch.setattr(environment, "mark", {})
    monkeypatch.setattr(tempdirs, "base", lambda: str(tmp_path / "registry"))
    program = _Program()
    yield program
    guardian = program.guardian
    program.forget()
    if guardian:
        os.waitpid(guardian, 0)


async def test_directory_is_made_once_and_goes_with_the_program(program: _Program) -> None:
    directory = program.open()
    guardian = program.guardian

    assert program.open() is directory
    assert program.guardian == guardian
    assert [one.name for one in registry.programs()] == [directory.name]
    assert environment.mark == {environment.PROGRAM: directory.name}

    program.forget()  # which ends the connection, as the end of the program does
    os.waitpid(guardian, 0)
    assert registry.programs() == []


async def test_guardian_that_was_killed_is_replaced_before_the_next_container(program: _Program) -> None:
    directory = program.open()
    first = program.guardian
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: not alive(first))

    assert program.open() is directory
    assert program.guardian != first
    assert alive(program.guardian)


async def test_signals_for_the_program_do_not_end_its_guardian(program: _Program) -> None:
    program.open()
    guardian = program.guardian
    await eventually(lambda: Path(f"/proc/{guardian}/comm").read_text() == "shimpy-guardian\n")
    status = Path(f"/proc/{guardian}/status")

    def ignored() -> int:
        return next(int(line.split()[1], 16) for line in status.read_text().splitlines() if "SigIgn" in line)

    await eventually(lambda: ignored() >> signal.SIGTERM - 1 & 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(guardian, number)
    assert alive(guardian)
    assert os.getsid(guardian) == guardian


async def test_no_place_for_the_directory_is_said_and_leaves_nothing(
    program: _Program, tmp_path: Path
) -> None:
    (tmp_path / "registry").write_text("a file")
    before = opened_since({})

    with pytest.raises(shimpy.ShimError, match=str(tmp_path / "registry")):
        program.open()

    assert sorted(opened_since({})) == sorted(before)
    assert program.guardian == 0


async def test_program_that_ends_leaves_no_directory() -> None:
    script = "from shimpy.client.program import program; print(program.open().path)"
    path = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.strip()

    await eventually(lambda: not os.path.exists(path), within=5)


def test_fork_of_a_program_has_one_of_its_own() -> None:
    script = """
import os
from shimpy.client.program import program
ours = program.open().name
if os.fork() == 0:
    print(program.guardian, program.open().name != ours, flush=True)
    os._exit(0)
os.wait()
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert done.stdout.split() == ["0", "True"]


def test_folder_of_a_container_that_could_not_be_deleted_stays_for_the_guardian(
    program: _Program, monkeypatch: pytest.MonkeyPatch, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """What it was made from, and the ids that it has, are not another's as long as it may run."""
    monkeypatch.setattr("shimpy.client.program_guard.program", program)
    path = Path(bundle("true"))
    guard = ProgramGuard("runc", None)
    with program.folder() as made:
        (Path(made) / "config.json").write_text((path / "config.json").read_text())
        with guard.creating(new_id(), made, "") as created:
            created(os.getpid())
        guard.keep()
    assert Path(made).is_dir()
    assert [one.bundle for one in program.open().containers()] == [made]
    for entry in (Path(program.open().path) / "containers").iterdir():
        entry.unlink()  # it names this process as its init
