"""The files of a command: who may read them, what is read in them, how they go, and when there is no room."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shimpy import scratch
from shimpy.errors import InternalError, ResourceExhaustedError
from shimpy.runtime import Runc
from shimpy.runtime.files import MAX_LOG, CommandFiles
from tests.support.commanded import Command
from tests.support.machine import lacking

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def folder(nothing_left: None) -> Path:
    """Where the folders of all commands are made."""
    return Path(scratch.place())


# -- whose they are, and how they go -------------------------------------------------------------


def test_they_are_in_a_folder_of_their_own_that_is_closed_to_others(folder: Path) -> None:
    before = os.umask(0)
    try:
        with CommandFiles() as one, CommandFiles() as other:
            paths = [one.log, one.pid, one.process, other.log, other.pid, other.process]
            assert len(set(paths)) == len(paths)
            assert len(os.listdir(folder)) == 2
            for path in paths:
                assert os.stat(os.path.dirname(path)).st_mode & 0o7777 == 0o700
    finally:
        os.umask(before)


def test_all_are_removed_in_the_end_whoever_made_them(folder: Path) -> None:
    def fail() -> None:
        with CommandFiles() as files:
            for path in (files.log, files.pid, os.path.join(os.path.dirname(files.log), ".pid")):
                Path(path).touch()
            files.write_process({})
            files.capture().close()
            files.check_room("oci create")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert os.listdir(folder) == []


def test_that_they_are_gone_already_is_no_fault(folder: Path) -> None:
    with CommandFiles() as files:
        os.rmdir(os.path.dirname(files.log))


# -- what is in them -----------------------------------------------------------------------------


def test_a_process_is_written_for_a_runtime_of_any_locale_to_read() -> None:
    process = {"args": ["ä", "\0", "\ud800", "😀"], "user": {"uid": 2**31}}
    with CommandFiles() as files:
        files.write_process(process)
        text = Path(files.process).read_bytes()

    assert text.isascii()
    assert json.loads(text) == process


@pytest.mark.parametrize(
    ("text", "pid"), [(b"2", 2), (b"17\n", 17), (b" 17 \n", 17), (b"4194304", 2**22), (b"0017", 17)]
)
def test_a_pid_is_read(text: bytes, pid: int) -> None:
    with CommandFiles() as files:
        Path(files.pid).write_bytes(text)
        assert files.read_pid("oci") == pid


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"\n", b"0", b"1", b"-2", b"+2", b"2.0", b"2 3", b"0x2", b"1_0", b"\xb2", b"\0", b"text"),
        *(b"4194305", b"9" * 40, b" " * 40 + b"2"),
    ],
)
def test_what_is_no_pid_is_refused(text: bytes) -> None:
    with CommandFiles() as files:
        Path(files.pid).write_bytes(text)
        with pytest.raises(
            InternalError, match=r"^oci succeeded but wrote no pid into its pid file"
        ) as raised:
            files.read_pid("oci")

    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


def test_without_a_pid_file_that_is_said() -> None:
    with (
        CommandFiles() as files,
        pytest.raises(InternalError, match=r"^oci succeeded but wrote no pid file: "),
    ):
        files.read_pid("oci")


def test_a_log_is_read_from_its_end() -> None:
    with CommandFiles() as files:
        assert files.read_log() == b""
        Path(files.log).write_bytes(b"short")
        assert files.read_log() == b"short"
        Path(files.log).write_bytes(b"x" * MAX_LOG + b"end")
        assert files.read_log() == b"x" * (MAX_LOG - 3) + b"end"


def test_a_log_that_cannot_be_read_is_none() -> None:
    with CommandFiles() as files:
        os.symlink(".", files.log)
        assert files.read_log() == b""
        os.unlink(files.log)


# -- when there is no room -----------------------------------------------------------------------


class Place:
    """A small file system that commands have their files in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fill = path / "fill"
        self._fill.mkdir()

    def leave_room_for(self, files: int) -> None:
        """Leaves so many files that can still be made."""
        self._until_it_is_full(lambda number: (self._fill / str(number)).touch())
        for number in range(files):
            (self._fill / str(number)).unlink()

    def leave_no_room_in_files(self) -> None:
        """Leaves files that can be made, and not a byte for what is in them."""
        with open(self._fill / "bytes", "wb", buffering=0) as file:
            self._until_it_is_full(lambda _: file.write(bytes(4096)))

    def clear(self) -> None:
        for path in self._fill.iterdir():
            path.unlink()

    def left(self) -> list[str]:
        """What is there besides."""
        return [path.name for path in self.path.iterdir() if path != self._fill]

    @staticmethod
    def _until_it_is_full(write: Callable[[int], object]) -> None:
        with contextlib.suppress(OSError):
            for number in range(1000):
                write(number)
            raise AssertionError("it is never full")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if lacking():
        pytest.skip(f"needs {lacking()}")
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=32", "tmpfs", path],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr!r}")
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TMPDIR", str(path))
            patch.setattr(tempfile, "tempdir", str(path))  # as looked up while there was room
            yield Place(path)
    finally:
        subprocess.run(["umount", path], check=True)


async def exhausted(call: Awaitable[object], place: Place) -> None:
    """Fails unless a call says that there is no room, and where, and leaves nothing there."""
    with pytest.raises(ResourceExhaustedError, match=f"{place.path}.*(?i:no space left on device)"):
        await call
    assert place.left() == []


@pytest.mark.anyio
@pytest.mark.parametrize("files", [0, 1, 2])
async def test_create_without_room_for_its_files(
    commanded: Command, runc: Runc, small: Place, files: int
) -> None:
    """Its folder, its log, its pid file."""
    container = commanded("sleep", "1000")
    small.leave_room_for(files)

    await exhausted(container.create(), small)

    small.clear()
    await container.create()
    await container.kill()
    await runc.delete(container.id)


@pytest.mark.anyio
@pytest.mark.parametrize("files", [0, 1, 2, 3])
async def test_exec_without_room_for_its_files(
    commanded: Command, runc: Runc, small: Place, files: int
) -> None:
    """Its folder, its process object, its log, its pid file."""
    container = commanded("sleep", "1000")
    await container.create()
    await container.start()
    small.leave_room_for(files)

    await exhausted(container.exec("true"), small)

    small.clear()
    assert await container.exit_of(await container.exec("true")) == 0
    await container.kill()
    await runc.delete(container.id)


@pytest.mark.anyio
@pytest.mark.parametrize("command", ["start", "pause", "resume", "delete", "state"])
@pytest.mark.parametrize("files", [0, 1])
async def test_other_commands_without_room_for_their_files(
    runc: Runc, small: Place, command: str, files: int
) -> None:
    small.leave_room_for(files)

    await exhausted(getattr(runc, command)("shimpy-test-none"), small)


@pytest.mark.anyio
async def test_state_without_room_for_its_log(runc: Runc, small: Place) -> None:
    """It has a file for what it prints, too."""
    small.leave_room_for(2)

    await exhausted(runc.state("shimpy-test-none"), small)


@pytest.mark.anyio
@pytest.mark.parametrize("command", ["create", "exec", "start", "state"])
async def test_without_room_in_the_files(commanded: Command, runc: Runc, small: Place, command: str) -> None:
    container = commanded("sleep", "1000")
    small.leave_no_room_in_files()
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "create": container.create,
        "exec": lambda: container.exec("true"),
        "start": container.start,
        "state": lambda: runc.state(container.id),
    }

    await exhausted(calls[command](), small)


@pytest.mark.anyio
async def test_without_a_place_for_files(runc: Runc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", f"{tmp_path}/removed")
        with pytest.raises(ResourceExhaustedError, match=f"{tmp_path}/removed: No such file or directory"):
            await runc.version()
