"""What stdout's path can say instead of being one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shimpy.core.stdio.uri import LogFile, LogProgram, Output, OutputPath, parse_output
from shimpy.errors import InvalidArgumentError, PermissionDeniedError, ShimError

GOOD = {
    "": OutputPath(""),
    "/run/a:b?c#d%41": OutputPath("/run/a:b?c#d%41"),
    "fifo:///run/out": OutputPath("/run/out"),
    "file:///var/log/a%20b": LogFile("/var/log/a b"),
    "FILE:///var/log/a": LogFile("/var/log/a"),
    "file://localhost/var/log/a": LogFile("/var/log/a"),
    "file:/var/log/a": LogFile("/var/log/a"),
    "binary:///bin/log": LogProgram("/bin/log", (), must_say_ready=False),
    "binary-v2:///bin/log": LogProgram("/bin/log", (), must_say_ready=True),
    "binary:///bin/log?a=1&b=2": LogProgram("/bin/log", ("a", "1", "b", "2"), must_say_ready=False),
    "binary:///bin/log?a=1&a=2": LogProgram("/bin/log", ("a", "1"), must_say_ready=False),
    "binary:///bin/log?flag": LogProgram("/bin/log", ("flag", ""), must_say_ready=False),
    "binary:///bin/log?a=x%26y+z#b": LogProgram("/bin/log", ("a", "x&y z"), must_say_ready=False),
    "file:///var/%ff": LogFile(os.fsdecode(b"/var/\xff")),
}


@pytest.mark.parametrize(("stdout", "output"), GOOD.items())
def test_where_output_goes(stdout: str, output: Output) -> None:
    assert parse_output(stdout) == output


@pytest.mark.parametrize(
    "stdout",
    [
        "http:///x",
        "npipe:////./pipe/x",
        "file://",
        "file:relative",
        "file:///directory/",
        "binary://host/bin/log",
        "binary:",
        "file:///a%00b",
        "binary:///bin/log?a=%00",
    ],
)
def test_what_says_nothing_is_refused(stdout: str) -> None:
    with pytest.raises(InvalidArgumentError, match="stdout"):
        parse_output(stdout)


def test_a_log_file_is_made_with_its_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "log"
    before = os.umask(0)
    try:
        LogFile(str(path)).create()
    finally:
        os.umask(before)

    modes = [stat.S_IMODE(one.stat().st_mode) for one in (path.parent.parent, path.parent, path)]
    assert modes == [0o755, 0o755, 0o644]


def test_a_log_file_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before")

    LogFile(str(path)).create()

    assert path.read_text() == "before"


def test_nobody_waits_for_a_fifo_in_place_of_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")

    with pytest.raises(ShimError, match="log"):
        LogFile(str(tmp_path / "log")).create()


def test_a_fifo_with_a_reader_is_not_a_file_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)

    with pytest.raises(InvalidArgumentError, match="not a file"):
        LogFile(str(tmp_path / "log")).create()

    os.close(reader)


def test_a_directory_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="directory"):
        LogFile(str(tmp_path)).create()


def test_a_place_that_cannot_be_written_to() -> None:
    with pytest.raises((PermissionDeniedError, ShimError), match="/proc/log"):
        LogFile("/proc/log").create()
