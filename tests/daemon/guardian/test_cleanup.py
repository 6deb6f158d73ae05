"""The removal of what a dead program has left: all of that, and nothing of others."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shimpy.core import tempdirs
from shimpy.core.registry import OwnedContainer, ProgramDirectory
from shimpy.core.runtime import find_runtime
from shimpy.core.runtime.environment import PROGRAM
from shimpy.daemon.guardian.cleanup import clean_up
from shimpy.daemon.guardian.marked import kill_marked
from tests.support import containers
from tests.support.time_scale import scaled

pytestmark = pytest.mark.anyio


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProgramDirectory]:
    """The directory of a program that has died."""
    monkeypatch.setattr(tempdirs, "base", lambda: str(tmp_path / "registry"))
    directory = ProgramDirectory(ProgramDirectory.new_name())
    lock = directory.make()
    yield directory
    os.close(lock)


@pytest.fixture
def running(bundle: Callable[..., str], new_id: Callable[[], str]) -> OwnedContainer:
    """A container that was created by a runtime's command, and by nobody who lives."""
    container_id, path = new_id(), bundle("sleep", "1000000")
    record = OwnedContainer.before(container_id, path, {}, find_runtime("runc"), None)
    subprocess.run(
        ["runc", "create", "--bundle", path, "--pid-file", f"{path}/pid", container_id],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return record.with_init(int(Path(f"{path}/pid").read_text()))


async def test_container_goes_with_the_directory_and_what_is_in_it(
    directory: ProgramDirectory, running: OwnedContainer
) -> None:
    directory.container().write(running)
    Path(directory.make_folder(), "file").write_text("text")

    assert await clean_up(directory) == []

    assert containers.left(running.id) == []
    assert not any(map(os.path.exists, running.cgroups))
    assert not os.path.exists(directory.path)


@pytest.mark.parametrize("what", ["bundle", "init"])
async def test_container_of_another_that_has_the_id_by_now_stays(
    what: str, directory: ProgramDirectory, running: OwnedContainer
) -> None:
    other = {"bundle": "/another"} if what == "bundle" else {"pid": 1}
    fields = {name: getattr(running, name) for name in OwnedContainer.__slots__}
    directory.container().write(OwnedContainer(**{**fields, **other}))

    assert await clean_up(directory) == []

    assert containers.left(running.id) == [running.id]
    assert running.is_running()
    containers.remove(running.id)


async def test_container_of_which_the_create_has_made_nothing_yet(
    directory: ProgramDirectory, new_id: Callable[[], str]
) -> None:
    directory.container().write(OwnedContainer.before(new_id(), "/none", {}, find_runtime("runc"), None))

    assert await clean_up(directory) == []
    assert not os.path.exists(directory.path)


async def test_mounts_in_the_directory_are_unmounted_and_what_they_show_stays(
    directory: ProgramDirectory, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("text")
    folder = directory.make_folder()
    subprocess.run(["mount", "--bind", kept, folder], check=True)

    assert await clean_up(directory) == []

    assert not os.path.exists(directory.path)
    assert (kept / "file").read_text() == "text"


def test_what_has_the_mark_is_killed_with_its_group_and_nothing_else() -> None:
    name = ProgramDirectory.new_name()
    mark = {**os.environ, PROGRAM: name}
    script = "env -i sleep 1000000 & echo $!; wait"
    marked = subprocess.Popen(["sh", "-c", script], env=mark, stdout=subprocess.PIPE, process_group=0)
    other = subprocess.Popen(["sleep", "1000000"], env={**os.environ, PROGRAM: f"{name}0"})
    assert marked.stdout is not None
    with marked.stdout as said:
        helper = os.pidfd_open(int(said.readline()))

    assert kill_marked(name)

    assert marked.wait() == -9
    assert other.poll() is None
    other.kill()
    other.wait()
    assert select.select([helper], [], [], scaled(30))[0] == [helper], "it lives"
    os.close(helper)
