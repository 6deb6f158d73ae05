"""The examples of the README, and of the guide for the terminal, run where the paths that they name exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.commandline import without_advice
from tests.support.examples import one_at_a_time
from tests.support.paths import ROOT

_README = (ROOT / "README.md").read_text()
_BLOCK = re.compile(r"^(## .*?)$|^(### .*?)$|^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BLOCKS = _BLOCK.findall(_README)
_AT_A_TERMINAL = [
    text
    for *_, kind, text in _BLOCK.findall((ROOT / "docs/pages/guides/terminal.md").read_text())
    if kind == "sh"
]

_SANDBOX = "A sandbox for code you do not trust"

# /srv and /run of a mount namespace of its own: the README's directories, and nothing of this machine's.
_ELSEWHERE = """
set -e
mount -t tmpfs none /srv
mkdir /srv/rootfs
mount --bind "$0" /srv/rootfs
mount -t tmpfs none /run
mkdir /run/web /run/job
exec "$@"
"""


@pytest.fixture(autouse=True)
def _one_at_a_time() -> Iterator[None]:
    with one_at_a_time():
        yield


def _examples(language: str, heading: str) -> list[str]:
    """Returns the examples in a language, under a heading."""
    found, current = [], ""
    for chapter, section, kind, text in _BLOCKS:
        current = chapter or section or current
        if kind == language and current.lstrip("# ") == heading:
            found.append(text)
    return found


def _elsewhere(rootfs: Path, *command: str) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ELSEWHERE, str(rootfs), *command]


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}


def _expected(example: str) -> list[str]:
    """Returns the lines that an example says it prints, in the comments behind its print calls."""
    said = re.findall(r"print\(.*\)  # (.*)$", example, re.MULTILINE)
    # One line each, where one print call is made several times.
    return [
        line
        for comment in said
        for line in (re.split(r", (?=[a-zA-Z])", comment) if "[" not in comment else [comment])
    ]


def _output_of(example: str, rootfs: Path) -> list[str]:
    done = subprocess.run(
        _elsewhere(rootfs, sys.executable, "-c", example),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=_environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_newcomer_sees_the_sandbox_first_and_it_works_twice(rootfs: Path) -> None:
    headings = [chapter for chapter, *_ in _BLOCKS if chapter]
    assert headings[:2] == ["## Try it", f"## {_SANDBOX}"]
    (example,) = _examples("python", _SANDBOX)
    for _ in range(2):
        assert _output_of(example, rootfs) == _expected(example)


def test_the_sandbox_at_a_terminal_works_twice(rootfs: Path) -> None:
    (example,) = _examples("sh", _SANDBOX)
    done = subprocess.run(
        _elsewhere(rootfs, "sh", "-ec", example * 2),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=_environment(),
    )
    assert (done.stdout, without_advice(done.stderr)) == ("0\nhello\n" * 2, "")


@pytest.mark.parametrize("heading", ["Launch it from Python", "Embed it"])
def test_python(heading: str, rootfs: Path) -> None:
    (example,) = _examples("python", heading)
    assert sorted(_output_of(example, rootfs)) == sorted(_expected(example))


def test_call_it(rootfs: Path) -> None:
    (example,) = _examples("python", "Call it")
    # What has to be there before: the shim of the section, a bundle, and a file for its output.
    before = """
    shimpy bundle /run/web/bundle --rootfs /srv/rootfs -- echo hello >/dev/null
    touch /run/web/log
    python -m shimpy --socket /run/web/shim.sock --log-level error &
    until [ -S /run/web/shim.sock ]; do sleep 0.01; done
    "$@"
    cat /run/web/log
    kill $!
    wait
    """
    done = subprocess.run(
        _elsewhere(rootfs, "sh", "-ec", before, "sh", sys.executable, "-c", example),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=_environment(),
    )
    assert (done.stdout.splitlines(), done.stderr) == ([*_expected(example), "hello"], "")


def _terminal(rootfs: Path, script: str) -> pexpect.spawn[str]:
    command, *arguments = _elsewhere(rootfs, "bash", "-c", script)
    return pexpect.spawn(
        command, arguments, encoding="utf-8", timeout=60, env=_environment(), dimensions=(24, 100)
    )


def test_run_at_a_terminal(rootfs: Path) -> None:
    example, _, _ = _AT_A_TERMINAL
    terminal = _terminal(rootfs, example)
    terminal.expect("/ # ")
    terminal.sendline("echo $((6 * 7))")
    terminal.expect("42\r")
    terminal.sendline("exit")
    terminal.expect("hello\r\n9\r\n")
    terminal.expect(pexpect.EOF)
    terminal.close()


def test_shim_that_stays_at_a_terminal(rootfs: Path) -> None:
    _, one, other = _AT_A_TERMINAL
    wait = "until [ -S /run/web/shim.sock ]; do sleep 0.01; done"
    terminal = _terminal(rootfs, f"({one}) 2>/dev/null &\n{wait}\n{other}kill $!\n")
    terminal.expect("/ # ")
    terminal.sendline("exit")
    terminal.expect("PID.*STATE.*KIND.*CONTAINER")
    terminal.expect("RUNNING.*init.*web")
    terminal.expect("137\r\n")
    terminal.expect(pexpect.EOF)
    terminal.close()


def test_every_python_example_is_run() -> None:
    assert [text for *_, kind, text in _BLOCKS if kind == "python"] == [
        example
        for heading in (_SANDBOX, "Call it", "Launch it from Python", "Embed it")
        for example in _examples("python", heading)
    ]
