"""`make run`: it shows a whole life, and leaves nothing behind however it ends."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import containers, leaks, machine
from .support.rounds import FULL

STEPS = ("Create", "Start", "Pause", "Exec", "Pty")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTS = list(itertools.product(STEPS, SIGNALS) if FULL else zip(STEPS, itertools.cycle(SIGNALS)))


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo, with its temporary folder in the test's own."""
    if lacking := machine.lacking():
        pytest.skip(f"containers need {lacking}")
    with subprocess.Popen(
        [sys.executable, "-m", "shimpy.demo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        yield process
        process.kill()
    containers.remove(f"shimpy-demo-{process.pid}")


def read_until(process: subprocess.Popen[str], step: str) -> str:
    """Returns the line that shows a step."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"  {step} "):
            return line
    pytest.fail(f"the demo ended before it showed {step!r}")


def assert_nothing_left(demo: subprocess.Popen[str], tmp_path: Path, shim: int) -> None:
    assert list(tmp_path.iterdir()) == []
    assert containers.left(f"shimpy-demo-{demo.pid}") == []
    assert not leaks.alive(shim)


def shim_of(demo: subprocess.Popen[str]) -> int:
    return int(read_until(demo, "python -m shimpy").split("pid ")[1].split()[0])


def test_shows_a_whole_life(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    shim = shim_of(demo)
    output, _ = demo.communicate()

    assert demo.returncode == 0, output
    for call in ("Create", "Start", "State", "Pause", "Resume", "Exec", "Pty", "Delete", "Events"):
        assert f"  {call} " in output
    assert "CREATE  START  EXEC_ADDED  EXIT(3)  EXEC_ADDED  EXIT(0)  EXIT(7)" in output
    assert_nothing_left(demo, tmp_path, shim)


@pytest.mark.parametrize(("step", "signum"), INTERRUPTS)
def test_cleans_up_when_it_is_interrupted(
    demo: subprocess.Popen[str], tmp_path: Path, step: str, signum: signal.Signals
) -> None:
    shim = shim_of(demo)
    read_until(demo, step)
    demo.send_signal(signum)
    output, _ = demo.communicate()

    assert demo.returncode == 128 + signum, output
    assert_nothing_left(demo, tmp_path, shim)


def test_cleans_up_and_fails_when_the_shim_dies(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    shim = shim_of(demo)
    read_until(demo, "Create")
    os.kill(shim, signal.SIGKILL)
    output, _ = demo.communicate()

    assert demo.returncode == 1
    assert "shimpy.demo: " in output.splitlines()[-1]
    assert "Traceback" not in output
    # Its end was the demo's to wait for.
    end = time.monotonic() + 5
    while leaks.alive(shim):
        assert time.monotonic() < end
    assert_nothing_left(demo, tmp_path, shim)
