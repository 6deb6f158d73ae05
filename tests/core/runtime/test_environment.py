"""What a program that embeds the shim is like itself, and no command of the runtime may inherit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shimpy.core.runtime import environment

# What the command behind the prefix is like, in a process that was made *{awkward}* before.
ASKED = """
import os, signal, subprocess
from shimpy.core.runtime import environment
{awkward}
command = [*environment.clean_prefix(), "cat", "/proc/self/status", "/proc/self/oom_score_adj"]
subprocess.run(command, check=True)
"""

IGNORES = "signal.signal(signal.{}, signal.SIG_IGN)"
BLOCKS = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.{}])"
SCORE = "open('/proc/self/oom_score_adj', 'w').write('300')"


@pytest.mark.parametrize(
    "awkward",
    [
        "",
        IGNORES.format("SIGCHLD"),
        IGNORES.format("SIGHUP"),
        IGNORES.format("SIGRTMAX"),
        BLOCKS.format("SIGTERM"),
        BLOCKS.format("SIGRTMIN"),
        SCORE,
        "; ".join([IGNORES.format("SIGINT"), BLOCKS.format("SIGUSR1"), SCORE]),
    ],
)
def test_a_command_begins_as_usual(awkward: str) -> None:
    asked = [sys.executable, "-c", ASKED.format(awkward=awkward)]
    told = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    status = dict(line.split(":\t") for line in told[:-1])
    # glibc's posix_spawn(3), which Python takes from 3.13 on, leaves its own two ignored.
    ignored = int(status["SigIgn"], 16) & ~environment._OF_THE_C_LIBRARY
    assert (int(status["SigBlk"], 16), ignored) == (0, 0)
    assert told[-1] == "0"


def test_a_program_that_is_as_usual_pays_for_nothing() -> None:
    asked = "from shimpy.core.runtime import environment; print(environment.clean_prefix())"
    assert subprocess.check_output([sys.executable, "-c", asked], text=True) == "[]\n"


def test_a_score_that_is_replaced_anyway_costs_no_shell() -> None:
    told = "print(environment.clean_prefix(sets_oom_score=True))"
    asked = f"{SCORE}; from shimpy.core.runtime import environment; {told}"
    assert subprocess.check_output([sys.executable, "-c", asked], text=True) == "[]\n"


def test_what_another_thread_blocks_is_that_threads_own() -> None:
    asked = """
import signal, threading
from shimpy.core.runtime import environment
blocked, over = threading.Event(), threading.Event()
def other():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    blocked.set()
    over.wait()
thread = threading.Thread(target=other)
thread.start()
blocked.wait()
print(environment.clean_prefix())
over.set()
"""
    assert subprocess.check_output([sys.executable, "-c", asked], text=True) == "[]\n"


def test_what_a_supervisor_told_us_is_not_for_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    private = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID")
    for name in private:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HTTP_PROXY", "kept")
    monkeypatch.setattr(environment, "mark", {})
    given = environment.environment()
    assert given == {name: value for name, value in os.environ.items() if name not in private}


def test_mark_of_another_program_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.PROGRAM, "program-0")
    assert environment.PROGRAM not in environment.unmarked()


def test_commands_have_the_mark_of_the_program_that_has_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "mark", {environment.PROGRAM: "program-1"})
    assert (environment.environment() or {})[environment.PROGRAM] == "program-1"
