"""`make run`: it shows a whole life, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import containers, leaks, machine
from tests.support.rounds import FULL

COMMANDS = ("create", "start", "pause", "exec")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTS = list(itertools.product(COMMANDS, SIGNALS) if FULL else zip(COMMANDS, itertools.cycle(SIGNALS)))

# Stands in front of the runtime and holds one of its commands, so that a test knows where the demo is.
HOLD = """#!/bin/sh
for word; do
    if [ "$word" = "$HELD_COMMAND" ]; then
        echo >"$HELD_DIRECTORY/reached"
        read -r _ <"$HELD_DIRECTORY/gate"
    fi
done
exec {runc} "$@"
"""


class Demo:
    """The demo in a process of its own, with all that it makes in *directory*."""

    def __init__(self, directory: Path, hold: str = "") -> None:
        # No socket's address holds that much.
        self.temporary, self._held = directory / ("temporary" * 12), directory / "held"
        self.temporary.mkdir()
        self._held.mkdir()
        os.mkfifo(self._held / "reached")
        os.mkfifo(self._held / "gate")
        runtime = self._held / "runc"
        runtime.write_text(HOLD.format(runc=shutil.which("runc")))
        runtime.chmod(0o755)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shimpy.demo"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "TMPDIR": str(self.temporary),
                "PATH": f"{self._held}:{os.environ['PATH']}",
                "HELD_COMMAND": hold,
                "HELD_DIRECTORY": str(self._held),
            },
        )
        self.id = f"shimpy-demo-{self.process.pid}"

    def shim(self) -> int:
        """Returns the pid of its shim, once that command of the runtime is reached."""
        (self._held / "reached").read_bytes()
        shims = [pid for pid, state in leaks.children(self.process.pid).items() if state != "Z"]
        assert len(shims) == 1
        return shims[0]

    def end(self) -> tuple[int, str]:
        """Waits for its end and returns the exit status and the output."""
        output, _ = self.process.communicate()
        return self.process.returncode, output

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        # Lets go a command that is still held.
        os.close(os.open(self._held / "gate", os.O_RDWR | os.O_NONBLOCK))
        containers.remove(self.id)

    def assert_nothing_left(self) -> None:
        assert list(self.temporary.iterdir()) == []
        assert containers.left(self.id) == []
        assert containers.cgroups(self.id) == []


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[[str], Demo]]:
    if lacking := machine.lacking():
        pytest.skip(f"containers need {lacking}")
    with contextlib.ExitStack() as stack:
        yield lambda hold: stack.enter_context(contextlib.closing(Demo(tmp_path, hold)))


def test_shows_a_whole_life(start_demo: Callable[[str], Demo]) -> None:
    demo = start_demo("")
    status, output = demo.end()

    assert status == 0, output
    for call in ("Create", "Start", "State", "Pause", "Resume", "Exec", "Pty", "Delete", "Events"):
        assert f"  {call} " in output
    assert "CREATE  START  EXEC_ADDED  EXIT(3)  EXEC_ADDED  EXIT(0)  EXIT(7)" in output
    demo.assert_nothing_left()


@pytest.mark.parametrize(("command", "signum"), INTERRUPTS)
def test_cleans_up_when_it_is_interrupted(
    start_demo: Callable[[str], Demo], command: str, signum: signal.Signals
) -> None:
    demo = start_demo(command)
    shim = demo.shim()
    demo.process.send_signal(signum)
    status, output = demo.end()

    assert status == 128 + signum, output
    assert not leaks.alive(shim)
    demo.assert_nothing_left()


def test_cleans_up_and_fails_when_the_shim_dies(start_demo: Callable[[str], Demo]) -> None:
    demo = start_demo("pause")
    os.kill(demo.shim(), signal.SIGKILL)
    status, output = demo.end()

    assert status == 1, output
    assert "shimpy.demo: Pause: " in output.splitlines()[-1]
    assert "Traceback" not in output
    demo.assert_nothing_left()
