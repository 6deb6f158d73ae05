"""What the command line inherits: file descriptors that are closed or unfit, signals that are ignored."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commandline import without_advice
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

_SHIMPY = str(Path(sys.executable).with_name("shimpy"))


def _sh(script: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in which `shimpy` is this one, and $1 and so on are *args*."""
    done = subprocess.run(
        ["sh", "-c", script.replace("shimpy", _SHIMPY), "sh", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    done.stderr = without_advice(done.stderr)
    return done


@pytest.mark.parametrize(
    ("script", "stdout"),
    [
        ("shimpy run $1 echo hi >&-", ""),
        ("shimpy run $1 sh -c 'echo out; echo err >&2' 2>&-", "out\n"),
        ("shimpy run -i $1 sh -c 'cat; echo end' <&-", "end\n"),
        ("shimpy run -i $1 sh -c 'cat; echo end' <&- 2>&-", "end\n"),
        ("shimpy run $1 true <&- >&- 2>&-", ""),
        ("shimpy bundle $2/b --rootfs $1 >&-", ""),
        ("shimpy bundle $2/b --rootfs $1 --json >&-", ""),
        ("shimpy --help >&-", ""),
    ],
)
def test_a_closed_descriptor_is_as_dev_null(script: str, stdout: str, rootfs: Path, tmp_path: Path) -> None:
    done = _sh(script, rootfs, tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == (stdout, "", 0)


@pytest.mark.parametrize("option", ["", "--json"])
async def test_state_with_its_output_closed(option: str, server: Server) -> None:
    done = _sh(f"shimpy state -s $1 {option} >&-", server.socket)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_an_error_with_nowhere_to_say_it_has_its_status(tmp_path: Path) -> None:
    for unfit in ("2>&-", "2>/dev/full"):
        done = _sh(f"shimpy state -s $1/none.sock {unfit}", tmp_path)
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 9), unfit


@pytest.mark.parametrize("name", ["file", "fifo"])
def test_input_that_cannot_be_read_is_said_and_is_at_its_end(name: str, rootfs: Path, tmp_path: Path) -> None:
    # The shell's own opening of the FIFO is the reader that lets it be opened for writing.
    done = _sh(f"mkfifo $2/fifo; exec 4<>$2/fifo; shimpy run -i $1 cat 0>$2/{name}", rootfs, tmp_path)
    assert (done.stdout, done.returncode) == ("", 0)
    assert re.fullmatch("shimpy: stdin: .*not open for reading\n", done.stderr)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals, rootfs: Path) -> None:
    script = f"trap '' {number.name.removeprefix('SIG')}; exec {_SHIMPY} run -i $1 sh -c 'echo ready; cat'"
    with subprocess.Popen(
        ["sh", "-c", script, "sh", rootfs], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert (process.communicate("went on\n", timeout=50)[0], process.returncode) == ("went on\n", 0)


@pytest.mark.parametrize("command", ["run $1 echo", "bundle $2/b --rootfs $1"])
def test_sigchld_may_be_ignored(command: str, rootfs: Path, tmp_path: Path) -> None:
    done = _sh(f"trap '' CHLD; exec shimpy {command}", rootfs, tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_umask_is_that_of_a_bundle(rootfs: Path, tmp_path: Path) -> None:
    assert _sh("umask 077; shimpy bundle $2/b --rootfs $1 -e SECRET=x", rootfs, tmp_path).returncode == 0
    config = tmp_path / "b" / "config.json"
    assert "SECRET=x" in json.loads(config.read_text())["process"]["env"]
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
