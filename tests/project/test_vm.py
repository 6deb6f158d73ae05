"""What `make vm` runs in its machine, and the knob for slow machines; no machine is booted here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.__main__ import SELECTION, script
from tests.vm.image import SOURCE


def run(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script for the machine here, with a stand-in for each program that it calls."""
    for name, program in {
        "runc": "echo runc",
        "crun": "echo crun",
        "python": 'echo "$SHIMPY_TEST_RUNTIME $*"; [ "$SHIMPY_TEST_RUNTIME" != "$FAILS_ON" ]',
    }.items():
        (directory / name).write_text(f"#!/bin/sh\n{program}\n")
        (directory / name).chmod(0o755)
    return subprocess.run(
        ["sh", "-c", script.replace("/opt/venv/bin/python", str(directory / "python"))],
        env={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"},
        check=False,
        capture_output=True,
        text=True,
    )


def test_what_runs_by_default_is_there() -> None:
    assert [path for path in SELECTION if not (SOURCE / path).exists()] == []


def test_the_tests_run_on_one_runtime_after_the_other(tmp_path: Path) -> None:
    done = run(script(["runc", "crun"], ["-k", "oom or exec"]), tmp_path)

    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["runc", "runc", "crun", "crun"]
    assert done.stdout.count("-k oom or exec") == 2


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_failure_on_either_runtime_is_one_of_the_run(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_ON", runtime)

    done = run(script(["runc", "crun"], []), tmp_path)

    assert done.returncode == 1
    assert "\ncrun -m pytest" in done.stdout


def test_a_slow_machine_has_more_time_for_each_test(tmp_path: Path) -> None:
    """Both for one that has a limit of its own and for one that has not."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_collection_modifyitems\n")
    (tmp_path / "test_limits.py").write_text(
        "import pytest\n"
        "def limit(request): return request.node.get_closest_marker('timeout').args\n"
        "def test_usual(request): assert limit(request) == (180,)\n"
        "@pytest.mark.timeout(7)\n"
        "def test_own(request): assert limit(request) == (21,)\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "timeout=60", str(tmp_path)],
        cwd=SOURCE,
        env={**os.environ, "SHIMPY_TIME_SCALE": "3"},
        check=False,
        capture_output=True,
        text=True,
    )

    assert "2 passed" in done.stdout
