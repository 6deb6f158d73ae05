"""`python -m tests.release`: builds the archives, and tries them in empty environments of each Python."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from pathlib import Path

from tests.support.bundles import make_rootfs
from tests.support.interpreters import interpreters
from tests.support.paths import ROOT

# Bytes of the wheel, so that nothing gets into it unnoticed: 612,000 are its 340 modules.
MAX_WHEEL = 700_000

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

# What is in the sdist beside the package, for those who build and test from it.
_SDIST = (
    "Makefile",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "tests/conftest.py",
    "docs/mkdocs.yml",
    "shim.proto",
)

_PROGRAM = """
import asyncio, sys
import shimpy

[getattr(shimpy, name) for name in shimpy.__all__]
import shimpy.hooks.audit, shimpy.hooks.metrics, shimpy.hooks.policy, shimpy.hooks.recorder
result = asyncio.run(shimpy.run(sys.argv[1], ["sh", "-c", "echo hello; exit 9"], timeout=30))
assert (result.stdout, result.exit_status) == (b"hello\\n", 9), result
"""


def main() -> None:
    """Builds, checks the metadata, installs, runs, and says how long each took."""
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("--only", metavar="VERSION", help="of Python, such as 3.12; default: each there is")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory(prefix="shimpy-release-") as name:
        directory = Path(name)
        rootfs = make_rootfs(directory / "rootfs")
        directory.chmod(0o711)  # for the ids of a user namespace
        wheel, sdist = _build(directory / "dist")
        for version, python in sorted(interpreters().items()):
            if only in (None, version):
                for archive in (wheel, sdist):
                    began = time.monotonic()
                    _try(archive, python, directory / f"{version}-{archive.suffix}", rootfs)
                    print(
                        f"Python {version}: {archive.name} works ({time.monotonic() - began:.0f} s)",
                        flush=True,
                    )


def _build(directory: Path) -> tuple[Path, Path]:
    _run(sys.executable, "-m", "build", "--outdir", directory, ROOT)
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    _run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size // 1000} kB; {sdist.name}: {sdist.stat().st_size // 1000} kB", flush=True)
    if size > MAX_WHEEL:
        sys.exit(f"the wheel has {size} bytes, more than {MAX_WHEEL}")
    if wheel.name.split("-")[1] != VERSION:
        sys.exit(f"the wheel is not of version {VERSION}")
    with tarfile.open(sdist) as archive:
        names = {member.partition("/")[2] for member in archive.getnames()}
    if missing := [name for name in _SDIST if name not in names]:
        sys.exit(f"the sdist lacks {', '.join(missing)}")
    return wheel, sdist


def _try(archive: Path, python: str, venv: Path, rootfs: Path) -> None:
    """Installs an archive by pip alone, and runs what it brings."""
    _run(python, "-m", "venv", "--without-pip", venv)
    programs = venv / "bin"
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "--disable-pip-version-check",
        "-q",
    ]
    _run(*pip, "install", f"{archive}[cli,metrics]")
    shown = {
        "shim": _run(programs / "python", "-m", "shimpy", "--version"),
        "containerd's": _run(programs / "containerd-shim-shimpy-v2", "-v"),
    }
    if wrong := [f"{name}: {text}" for name, text in shown.items() if f"shimpy {VERSION}" not in text]:
        sys.exit(f"not version {VERSION}: {wrong}")
    _run(programs / "shimpy", "--help")
    _run(programs / "python", "-c", _PROGRAM, rootfs)
    # The README's first example, and what it says that it prints.
    example, printed = _example(rootfs)
    # Before it may stand what shimpy says of an old runtime.
    if not (told := _run(programs / "python", "-c", example)).endswith(printed):
        sys.exit(f"the README's first example printed {told!r} instead of {printed!r}")
    _run(programs / "python", "-m", "shimpy.demo")


def _example(rootfs: Path) -> tuple[str, str]:
    match = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert match is not None
    code = match[1]
    printed = re.findall(r"print\(.*\)  # (.*)$", code, re.MULTILINE)
    return code.replace("/srv/rootfs", str(rootfs)), "".join(f"{line}\n" for line in printed)


def _run(*command: str | Path) -> str:
    """Runs a command away from this checkout, and returns what it says; if it fails, all ends with that."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env=environment,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with status {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
