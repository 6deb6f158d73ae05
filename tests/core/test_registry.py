"""The register of programs: what is alive, and what is read of others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shimpy.core import tempdirs
from shimpy.core.registry import OwnedContainer, ProcessIdentity, ProgramDirectory, programs


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of the test's own."""
    monkeypatch.setattr(tempdirs, "base", lambda: str(tmp_path / "registry"))
    return tmp_path / "registry"


def test_it_is_alive_as_long_as_anybody_has_locked_it() -> None:
    directory = ProgramDirectory(ProgramDirectory.new_name())
    lock = directory.make()

    assert directory.is_alive()
    assert directory.lock() is None
    os.close(lock)
    assert not directory.is_alive()


def test_who_has_taken_over_has_it_alone() -> None:
    directory = ProgramDirectory(ProgramDirectory.new_name())
    os.close(directory.make())

    taken = directory.lock()

    assert taken is not None
    assert directory.lock() is None
    os.close(taken)


def test_what_is_written_is_read() -> None:
    directory = ProgramDirectory(ProgramDirectory.new_name())
    lock = directory.make()
    container = OwnedContainer("web", "/b\udcff", "/runc", None, ("/a", "/b"), ("/c",), 7, 8)
    entry = directory.container()
    entry.write(container)
    directory.shim().write(ProcessIdentity(3, 4))

    assert directory.containers() == [container]
    assert directory.shims() == [ProcessIdentity(3, 4)]
    assert directory.owner() == ProcessIdentity.of(os.getpid())
    entry.remove()
    entry.remove()
    assert directory.containers() == []
    os.close(lock)


def test_what_was_being_written_is_left_out(base: Path) -> None:
    directory = ProgramDirectory(ProgramDirectory.new_name())
    os.close(directory.make())
    Path(directory.path, "containers", "0.new").write_text("{")
    Path(directory.path, "containers", "1").write_text("{")

    assert directory.containers() == []


def test_only_programs_are_listed(base: Path) -> None:
    assert programs() == []
    directory = ProgramDirectory(ProgramDirectory.new_name())
    os.close(directory.make())
    (base / "0123456789abcdef").mkdir()
    (base / f"{ProgramDirectory.new_name()}.new").mkdir()

    assert [one.name for one in programs()] == [directory.name]
    tempdirs.remove_abandoned()
    assert directory.owner() is not None


def test_process_is_not_taken_for_a_later_one_of_its_pid() -> None:
    process = subprocess.Popen(["sleep", "1000000"])
    identity = ProcessIdentity.of(process.pid)

    assert identity.exists()
    assert not ProcessIdentity(identity.pid, identity.birth + 1).exists()
    process.kill()
    process.wait()
    assert not identity.exists()


def test_cgroups_that_are_there_already_are_not_the_containers() -> None:
    spec = {"linux": {"cgroupsPath": "/"}}

    assert OwnedContainer.before("web", "/bundle", spec, "/runc", None).cgroups == ()
