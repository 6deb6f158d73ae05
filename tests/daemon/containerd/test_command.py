"""A program that is run and waited for, without asyncio and subprocess."""

from __future__ import annotations

import os
import time

import pytest

from shimpy.daemon.containerd.command import run
from tests.support.leaks import children, descriptors, opened_since


def test_its_output_and_its_status() -> None:
    assert run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], timeout=30) == (3, b"out\n")


def test_its_other_output() -> None:
    assert run(["/bin/sh", "-c", "echo out; echo err >&2"], timeout=30, output=2) == (0, b"err\n")


def test_it_is_looked_for_on_path() -> None:
    assert run(["true"], timeout=30) == (0, b"")


def test_the_signal_that_ended_it() -> None:
    assert run(["/bin/sh", "-c", "kill -TERM $$"], timeout=30)[0] == 128 + 15


def test_more_than_a_pipe_holds() -> None:
    assert len(run(["/bin/sh", "-c", "head -c 300000 /dev/zero"], timeout=30)[1]) == 300_000


def test_what_is_kept_is_bounded() -> None:
    assert len(run(["/bin/sh", "-c", "head -c 3000000 /dev/zero"], timeout=30)[1]) == 1 << 20


def test_its_children_may_hold_its_output() -> None:
    begun = time.monotonic()
    status, written = run(["/bin/sh", "-c", "sleep 30 & echo $!"], timeout=30)
    took = time.monotonic() - begun
    os.kill(int(written), 9)

    assert status == 0
    assert took < 20


def test_one_that_takes_too_long_is_killed() -> None:
    assert run(["sleep", "1000"], timeout=0.05)[0] == 128 + 9


def test_one_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        run(["/no/such/program"], timeout=30)


def test_nothing_of_it_is_left() -> None:
    before, kids = descriptors(), children()
    run(["true"], timeout=30)
    with pytest.raises(FileNotFoundError):
        run(["/no/such/program"], timeout=30)

    assert opened_since(before) == []
    assert children().keys() <= kids.keys()
