"""What the runtime keeps of a container: where that is, how it goes, and that nobody else's does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runc
from shimpy.core.runtime.state import delete_state, has_state, remove_copies
from shimpy.errors import InternalError
from shimpy.testing import Fails, FakeRuntime, error_line
from tests.core.runtime.conftest import Script
from tests.support.commanded import Command
from tests.support.machine import lacking

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.skipif(bool(lacking()), reason=f"needs {lacking()}"),
]

GONE = error_line("container does not exist")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeRuntime]:
    with FakeRuntime(tmp_path) as fake:
        yield fake


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory for the runtime's state, in which no mount stays."""
    root = tmp_path / "root"
    root.mkdir()
    yield root
    for line in mounts(root):
        subprocess.run(["umount", line.split()[4]], check=True)


def at(root: Path, reaper: Reaper) -> Runc:
    return Runc("runc", str(root), reaper)


# -- where it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["runc", "crun", "youki"])
async def test_a_known_runtime_keeps_it_where_it_always_does(
    tmp_path: Path, reaper: Reaper, name: str
) -> None:
    """Whatever directory the program is in."""
    program = tmp_path / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    assert Runc(str(program), None, reaper).state_directory("a") == f"/run/{name}/a"


async def test_of_another_runtime_it_is_not_known(script: Script, reaper: Reaper) -> None:
    runtime = Runc(script(""), None, reaper)

    assert runtime.state_directory("a") is None
    assert not has_state(runtime, "a")


async def test_with_a_root_it_is_there_for_every_runtime(script: Script, reaper: Reaper) -> None:
    for program in ("runc", script("")):
        assert Runc(program, "/some/root", reaper).state_directory("a") == "/some/root/a"


@pytest.mark.parametrize("own_root", [False, True])
async def test_it_is_there_from_create_to_delete(
    commanded: Command, runc: Runc, reaper: Reaper, root: Path, own_root: bool
) -> None:
    runtime = at(root, reaper) if own_root else runc
    container = commanded("true", runtime=runtime)
    before = has_state(runtime, container.id)
    await container.create()
    created = has_state(runtime, container.id)
    await container.start()
    await container.exit_of(container.pid)
    await runtime.delete(container.id)

    assert (before, created, has_state(runtime, container.id)) == (False, True, False)


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
async def test_whatever_is_there_is_state(root: Path, reaper: Reaper, kind: str) -> None:
    match kind:
        case "directory":
            (root / "a").mkdir()
        case "file":
            (root / "a").touch()
        case _:
            (root / "a").symlink_to("missing")

    assert has_state(at(root, reaper), "a")


# -- how it goes ---------------------------------------------------------------------------------


async def test_the_state_of_a_dead_container_is_removed(commanded: Command, runc: Runc) -> None:
    container = commanded("true")
    await container.create()
    await container.kill()

    await delete_state(runc, container.id)

    assert not has_state(runc, container.id)


async def test_state_that_somebody_else_has_removed_is_removed(commanded: Command, runc: Runc) -> None:
    container = commanded("true")
    await container.create()
    await container.kill()
    await runc.delete(container.id)

    await delete_state(runc, container.id)


async def test_a_runtime_that_does_not_find_what_is_there_has_failed(
    commanded: Command, fake: FakeRuntime, reaper: Reaper
) -> None:
    runtime = Runc(fake.path, None, reaper)
    container = commanded("true", runtime=runtime)
    await container.create()
    await container.kill()
    fake.fault("delete", Fails(log=GONE), times=1)

    with pytest.raises(InternalError, match="does not exist"):
        await delete_state(runtime, container.id)

    await delete_state(runtime, container.id)


@pytest.mark.parametrize("there", [False, True])
async def test_a_runtime_that_keeps_it_nobody_knows_where_is_asked(
    tmp_path: Path, reaper: Reaper, there: bool
) -> None:
    with FakeRuntime(tmp_path, real=None) as fake:
        runtime = Runc(fake.path, None, reaper)
        fake.fault("delete", Fails(log=GONE))
        fake.fault("state", Fails(log=error_line("cannot tell") if there else GONE))

        if there:
            with pytest.raises(InternalError, match="cannot tell"):
                await delete_state(runtime, "a")
        else:
            await delete_state(runtime, "a")

        assert [call.command for call in fake.calls] == ["delete", "state"]


async def test_any_other_failure_of_the_runtime_is_told(
    commanded: Command, fake: FakeRuntime, reaper: Reaper
) -> None:
    runtime = Runc(fake.path, None, reaper)
    container = commanded("true", runtime=runtime)
    await container.create()
    await container.kill()
    fake.fault("delete", Fails(log=error_line("the pool is on fire")), times=1)

    with pytest.raises(InternalError, match="the pool is on fire"):
        await delete_state(runtime, container.id)
    assert has_state(runtime, container.id)

    await delete_state(runtime, container.id)


# -- copies of the runtime's own program ---------------------------------------------------------


def copy_left(directory: Path) -> Path:
    """What a runc leaves that is killed while it protects its program: a file with a mount on it."""
    directory.mkdir()
    copy = directory / "runc.AbC123"
    copy.touch()
    source = shutil.which("runc")
    assert source is not None
    subprocess.run(["mount", "--bind", source, copy], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", copy], check=True)
    return copy


def mounts(directory: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{directory}/" in line]


async def test_a_copy_that_is_mounted_is_unmounted_and_removed(root: Path, reaper: Reaper) -> None:
    copy_left(root / "a")

    remove_copies(at(root, reaper), "a")

    assert (mounts(root), os.listdir(root)) == ([], [])


async def test_several_copies_and_those_that_are_not_mounted_are_removed(root: Path, reaper: Reaper) -> None:
    copy_left(root / "a")
    (root / "a" / "runc.2").touch()
    (root / "a" / "runc.3").symlink_to(root)

    remove_copies(at(root, reaper), "a")

    assert (mounts(root), os.listdir(root)) == ([], [])


async def test_an_empty_directory_of_a_container_is_removed(root: Path, reaper: Reaper) -> None:
    (root / "a").mkdir()

    remove_copies(at(root, reaper), "a")

    assert os.listdir(root) == []


@pytest.mark.parametrize("other", ["state.json", "exec.fifo", ".runc.1", "runc", "x"])
async def test_a_directory_with_anything_else_in_it_is_somebody_elses(
    root: Path, reaper: Reaper, other: str
) -> None:
    copy = copy_left(root / "a")
    (root / "a" / other).touch()

    remove_copies(at(root, reaper), "a")

    assert sorted(os.listdir(root / "a")) == sorted([copy.name, other])
    assert len(mounts(root)) == 1


async def test_other_containers_copies_are_left_alone(root: Path, reaper: Reaper) -> None:
    copy_left(root / "ab")

    remove_copies(at(root, reaper), "a")

    assert len(mounts(root)) == 1


@pytest.mark.parametrize("kind", ["nothing", "file", "unknown"])
async def test_where_there_is_no_directory_nothing_is_removed(
    root: Path, reaper: Reaper, script: Callable[[str], str], kind: str
) -> None:
    if kind == "file":
        (root / "a").touch()
    runtime = Runc(script(""), None, reaper) if kind == "unknown" else at(root, reaper)

    remove_copies(runtime, "a")

    assert os.listdir(root) == (["a"] if kind == "file" else [])


async def test_the_state_of_a_running_container_is_left_alone(commanded: Command, runc: Runc) -> None:
    container = commanded("sleep", "1000")
    await container.create()
    await container.start()

    remove_copies(runc, container.id)

    assert (await runc.state(container.id))["status"] == "running"
    await container.kill()
    await runc.delete(container.id)
