"""The wheel: what is in it, and that pip alone makes it work."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", directory, ROOT],
        check=True,
        capture_output=True,
        timeout=240,
    )
    (built,) = directory.glob("*.whl")
    return built


def _run(*command: str | Path) -> str:
    # Not this checkout: what is installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd="/", env=environment, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_contents(wheel: Path) -> None:
    """Every module of the package, its marker for type checkers, and nothing else of the project."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        entry_points = archive.read(
            next(name for name in names if name.endswith("/entry_points.txt"))
        ).decode()
    tracked = subprocess.run(
        ["git", "ls-files", "shimpy"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert {name for name in names if ".dist-info/" not in name} >= set(tracked)
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"shimpy"}
    assert "shimpy/py.typed" in names
    assert [name for name in names if "__pycache__" in name] == []
    assert "shimpy = shimpy.cli:main" in entry_points
    for line in ("Requires-Python: >=3.11", "Provides-Extra: cli", "Classifier: Typing :: Typed"):
        assert line in metadata


@pytest.mark.timeout(300)
def test_installed_with_pip_alone(wheel: Path, tmp_path: Path) -> None:
    # Another pip does it than the one that the environment would get, which saves half of the time.
    _run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "--quiet",
        "--disable-pip-version-check",
    ]
    _run(*pip, "install", "--no-compile", wheel)
    assert "--socket" in _run(python, "-m", "shimpy", "--help")
    program = "import shimpy; [getattr(shimpy, name) for name in shimpy.__all__]; print(shimpy.__file__)"
    assert _run(python, "-c", program).startswith(str(tmp_path))
    # The command is there, and says what it lacks.
    command = subprocess.run([tmp_path / "venv/bin/shimpy"], check=False, capture_output=True, text=True)
    assert (command.returncode, command.stderr) == (
        1,
        "shimpy: the command line needs an extra: pip install 'shimpy[cli]'\n",
    )
