"""`shimpy containerd …`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def shimpy(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `shimpy containerd` with arguments."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("shimpy")), "containerd", *arguments],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip


def test_install_says_where_and_what_to_configure(tmp_path: Path) -> None:
    done = shimpy("install", "--prefix", str(tmp_path), "--name", "mine")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "bin" / "containerd-shim-mine-v2")
    assert "runtime_type = 'io.containerd.mine.v2'" in done.stdout
    assert "kind: RuntimeClass" in done.stdout


def test_uninstall_says_what_it_removed(tmp_path: Path) -> None:
    shimpy("install", "--prefix", str(tmp_path))
    done = shimpy("uninstall", "--prefix", str(tmp_path))

    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/bin/containerd-shim-shimpy-v2\n")
    assert shimpy("uninstall", "--prefix", str(tmp_path)).returncode == 3


def test_a_name_that_is_none_is_one_line(tmp_path: Path) -> None:
    done = shimpy("install", "--prefix", str(tmp_path), "--name", "a/b")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("installed", [True, False])
def test_the_doctors_exit_status(tmp_path: Path, installed: bool) -> None:
    programs = {"runc": "runc version 1.4.0", "containerd": "containerd x v2.1.9"}
    if installed:
        programs["containerd-shim-shimpy-v2"] = "x: shimpy"
    for name, says in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho {says}\n")
        (tmp_path / name).chmod(0o755)
    done = shimpy("doctor", "--json", PATH=str(tmp_path))
    found = {each["what"]: each["verdict"] for each in json.loads(done.stdout)}

    assert found["shim"] == ("ok" if installed else "missing")
    assert done.returncode == int("missing" in found.values())
