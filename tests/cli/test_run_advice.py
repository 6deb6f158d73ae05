"""What `shimpy run` says of a runtime that is known to be escaped from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

_SHIMPY = str(Path(sys.executable).with_name("shimpy"))


@pytest.fixture
def runtime(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a runtime that is this machine's but for its version, which it takes a while to say."""

    def make(version: str) -> Path:
        path = tmp_path / "runtime"
        said = f"sleep 0.3; echo runc version {version}; echo commit: none"
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] || exec runc "$@"\n{said}\n')
        path.chmod(0o755)
        return path

    return make


def run(runtime: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_SHIMPY, "run", "--runtime", runtime, *args], capture_output=True, text=True, check=False, timeout=50
    )


def test_an_old_one_is_warned_of_in_one_line(runtime: Callable[[str], Path], rootfs: Path) -> None:
    path = runtime("1.1.11")
    done = run(path, rootfs, "sh", "-c", "echo out; exit 7")
    assert (done.stdout, done.returncode) == ("out\n", 7)
    assert done.stderr == (
        f"shimpy: warning: {path} (runc version 1.1.11) has published escapes from its containers: "
        "CVE-2024-21626, CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881; "
        "upgrade it, unless your distribution has the fixes\n"
    )


def test_nothing_is_said_of_a_new_one(runtime: Callable[[str], Path], rootfs: Path) -> None:
    assert run(runtime("1.4.0"), rootfs, "true").stderr == ""


def test_nothing_is_said_of_an_old_one_either_if_it_is_not_wanted(
    runtime: Callable[[str], Path], rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runtime("1.1.11")
    assert run(path, "-q", rootfs, "true").stderr == ""
    monkeypatch.setenv("SHIMPY_QUIET", "1")
    assert run(path, rootfs, "true").stderr == ""


def test_it_is_said_before_the_terminal_is_raw(runtime: Callable[[str], Path], rootfs: Path) -> None:
    """Whose lines would not begin at the left after that, nor before what the command says."""
    terminal = pexpect.spawn(
        _SHIMPY,
        ["run", "-it", "--runtime", str(runtime("1.1.11")), str(rootfs), "echo", "ready"],
        encoding="utf-8",
        timeout=20,
        dimensions=(24, 400),
    )
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.before is not None
    warning, ready, rest = terminal.before.split("\r\n")
    assert "has published escapes" in warning
    assert (ready, rest, terminal.exitstatus) == ("ready", "", 0)


def test_one_that_does_not_say_its_version_is_used(tmp_path: Path, rootfs: Path) -> None:
    path = tmp_path / "runtime"
    path.write_text('#!/bin/sh\n[ "$1" != --version ] || exit 1\nexec runc "$@"\n')
    path.chmod(0o755)
    done = run(path, rootfs, "echo", "out")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "", 0)
