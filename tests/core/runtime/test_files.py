"""The files of a command: who can reach them, what is read in them, how they go, and no room for them."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from shimpy.core.runtime.files import MAX_LOG, CommandFiles
from shimpy.errors import InternalError, ResourceExhaustedError
from tests.support.leaks import descriptors, no_descriptor_left, opened_since

pytestmark = pytest.mark.usefixtures("nothing_left")


# -- whose they are, and how they go -------------------------------------------------------------


def test_they_have_no_name_that_others_could_reach_them_by() -> None:
    with CommandFiles() as files:
        for path in (files.log, files.make_json({})):
            status = os.stat(path)
            assert (stat.S_ISREG(status.st_mode), status.st_nlink) == (True, 0)
        directory = os.path.dirname(files.make_pid())
        devices = {line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        status = os.stat(directory)
        assert stat.S_IMODE(status.st_mode) == 0o700
        assert f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}" not in devices


def test_no_other_program_inherits_them() -> None:
    with CommandFiles() as files:
        files.make_json({})
        files.make_pid()
        files.capture()
        shown = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, close_fds=False, check=True)

    assert shown.stdout.split() == [b"0", b"1", b"2", b"3"]


def test_all_go_in_the_end_whoever_made_them() -> None:
    before = descriptors()

    def fail() -> None:
        with CommandFiles() as files:
            path = files.make_pid()
            Path(path).touch()
            Path(f"{path}.new").touch()
            files.make_json({})
            files.capture()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert opened_since(before) == []


# -- what is in them -----------------------------------------------------------------------------


def test_a_process_is_written_for_a_runtime_of_any_locale_to_read() -> None:
    process = {"args": ["ä", "\0", "\ud800", "😀"], "user": {"uid": 2**31}}
    with CommandFiles() as files:
        text = Path(files.make_json(process)).read_bytes()

    assert text.isascii()
    assert json.loads(text) == process


@pytest.mark.parametrize(
    ("text", "pid"), [(b"2", 2), (b"17\n", 17), (b" 17 \n", 17), (b"4194304", 2**22), (b"0017", 17)]
)
def test_a_pid_is_read(text: bytes, pid: int) -> None:
    with CommandFiles() as files:
        Path(files.make_pid()).write_bytes(text)
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
        Path(files.make_pid()).write_bytes(text)
        with pytest.raises(
            InternalError, match=r"^oci succeeded but wrote no pid into its pid file"
        ) as raised:
            files.read_pid("oci")

    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


def test_without_a_pid_file_that_is_said() -> None:
    with CommandFiles() as files:
        files.make_pid()
        with pytest.raises(InternalError, match=r"^oci succeeded but wrote no pid file: "):
            files.read_pid("oci")


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "device", "socket"])
def test_what_is_not_a_file_is_neither_followed_nor_waited_for(tmp_path: Path, kind: str) -> None:
    (tmp_path / "pid").write_text("17")
    with CommandFiles() as files:
        path = files.make_pid()
        match kind:
            case "link":
                os.symlink(tmp_path / "pid", path)
            case "fifo":
                os.mkfifo(path)
            case "directory":
                os.mkdir(path)
            case "device":
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
            case _:
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(path)
        with pytest.raises(InternalError, match=r"^oci succeeded but wrote no pid file: "):
            files.read_pid("oci")


def test_a_log_is_read_from_its_end() -> None:
    with CommandFiles() as files:
        assert files.read_log() == b""
        Path(files.log).write_bytes(b"short")
        assert files.read_log() == b"short"
        Path(files.log).write_bytes(b"x" * MAX_LOG + b"end")
        assert files.read_log() == b"x" * (MAX_LOG - 3) + b"end"


# -- when there is no room -----------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 1])
def test_without_a_descriptor_for_one_that_is_said(left: int) -> None:
    before = descriptors()
    with (
        no_descriptor_left(but=left),
        pytest.raises(ResourceExhaustedError, match=r"^cannot make a temporary .*: Too many open files$"),
        CommandFiles() as files,
    ):
        files.make_pid()

    assert opened_since(before) == []
