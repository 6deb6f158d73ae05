"""The log: one line for each thing that happened, whatever was in it, and never a reason to fail."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from shimpy.daemon import logs

_PROGRAM = """
import logging, os, sys
from shimpy.daemon import logs
logs.set_up("info", sys.argv[1])
sys.excepthook = logs.report_crash
log = logging.getLogger("shimpy.test")
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=logs.FORMATS)
def style(request: pytest.FixtureRequest) -> str:
    """Each format of the log."""
    return str(request.param)


@pytest.fixture
def run(style: str) -> Run:
    """Runs lines of a program that logs in that format."""

    def go(*lines: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"stderr": subprocess.PIPE, "text": True, "timeout": 20, **options}
        program = _PROGRAM + "\n".join(lines)
        return subprocess.run([sys.executable, "-c", program, style], check=False, **options)

    return go


NAMES = ["a\nb", "a\r\nb", "\x1b[31mred", "\x9b31m", "a\0b", "\udcff", "\N{SNOWMAN}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_one_line_without_what_a_terminal_acts_on(run: Run, name: str) -> None:
    result = run(f"log.info('created %s', {name!a})")

    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "created " in line
    assert line.isprintable()


def test_what_libraries_say_is_logged_from_warnings_on(run: Run) -> None:
    result = run(
        "log.debug('a'); log.info('b')",
        "logging.getLogger('other').info('c'); logging.getLogger('other').warning('d')",
    )

    assert len(result.stderr.splitlines()) == 2


def test_a_crash_goes_to_the_log(run: Run, style: str) -> None:
    result = run("raise ValueError('all is lost')")

    assert result.returncode == 1
    first = result.stderr.splitlines()[0]
    assert "shimpy ends: ValueError: all is lost" in first
    if style == "json":
        assert "Traceback" in json.loads(first)["exception"]
        assert result.stderr.count("\n") == 1
    else:
        assert "Traceback" in result.stderr


def test_a_record_that_cannot_be_formatted_is_dropped(run: Run) -> None:
    result = run("log.info('%d', 'x'); log.info('fine')")

    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "fine" in line


@pytest.mark.parametrize(
    "spoil",
    [
        "os.close(2)",
        "r, w = os.pipe(); os.dup2(w, 2); os.close(w); os.close(r)",
        "os.dup2(os.open('/dev/full', 1), 2)",
    ],
    ids=["closed", "broken", "full"],
)
def test_a_stderr_that_takes_nothing_is_no_reason_to_fail(run: Run, spoil: str) -> None:
    result = run(spoil, "for _ in range(10): log.info('x' * 10_000)", stdout=subprocess.PIPE)

    assert (result.returncode, result.stdout) == (0, "")


def test_a_full_pipe_drops_lines_and_says_so(run: Run) -> None:
    reader, writer = os.pipe()
    result = run(
        "for n in range(5_000): log.info('%0100d', n)",
        f"while os.read({reader}, 65_536)[-1:] != b'\\n': pass",
        "log.info('the last')",
        stderr=writer,
        pass_fds=[reader],
    )
    os.close(writer)
    rest = b""
    while data := os.read(reader, 65_536):
        rest += data
    os.close(reader)

    assert result.returncode == 0
    assert b"lines were dropped: stderr was full" in rest
    assert b"the last" in rest


def test_in_JSON_what_came_with_a_record_is_a_field(run: Run, style: str) -> None:  # noqa: N802
    result = run("log.warning('%s is gone', 'web', extra={'id': 'web', 'pid': 7, 'odd': {1}})")

    assert result.stderr.count("\n") == 1
    if style == "json":
        fields = json.loads(result.stderr)
        del fields["time"]
        assert fields == {
            "level": "warning",
            "logger": "shimpy.test",
            "message": "web is gone",
            "id": "web",
            "pid": 7,
            "odd": "{1}",
        }


def test_what_is_set_up_again_is_set_up_once(run: Run) -> None:
    again = "logs.set_up('debug', 'json' if sys.argv[1] == 'text' else 'text')"
    lines = run(again, "log.debug('a detail')").stderr.splitlines()

    assert len(lines) == 1
    assert "a detail" in lines[0]


def test_levels_are_those_of_logging() -> None:
    assert all(isinstance(logging.getLevelName(level.upper()), int) for level in logs.LEVELS)
