"""The log of a helper is never in its way."""

from __future__ import annotations

import fcntl
import os

import pytest

from shimpy.daemon.helper import log


def test_a_line_is_like_those_of_a_shim(capfd: pytest.CaptureFixture[str]) -> None:
    log.write("warning", "keeper", "a name: \x1b[2J\n")

    stamp, rest = capfd.readouterr().err.split(" ", 1)
    assert rest == "warning keeper: a name: \\x1b[2J\\x0a\n"
    assert len(stamp) == len("2020-01-01T00:00:00.000")


def test_a_long_line_is_cut_not_split(capfd: pytest.CaptureFixture[str]) -> None:
    log.write("info", "keeper", "x" * 10_000)

    text = capfd.readouterr().err
    assert len(text) == 4096
    assert text.endswith("x\n")


def test_a_full_stderr_loses_the_line_and_stops_nobody() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"x" * 4096)
    stderr = os.dup(2)
    os.dup2(writing, 2)
    try:
        log.write("info", "keeper", "lost")
    finally:
        os.dup2(stderr, 2)
        for fd in (stderr, writing):
            os.close(fd)

    assert b"lost" not in os.read(reading, 8192)
    os.close(reading)
