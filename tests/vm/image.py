"""The disk that the machine boots from, and its kernel."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

# The directory of the project.
SOURCE = Path(__file__).resolve().parents[2]

_GUEST = Path(__file__).parent / "guest"
_CACHE = SOURCE / ".vm"
_RELEASE, _PYTHON = "bookworm", "3.11"
_PACKAGES = (
    *("systemd-sysv", "dbus", "udev"),
    *("linux-image-cloud-amd64", "initramfs-tools", "zstd"),
    *("runc", "crun", "tini", "busybox-static", "containerd"),
    *("python3", "python3-venv"),
)

# How large the disk is; what is not written to takes no place.
_GIGABYTES = 4


def image() -> Path:
    """Returns the directory with `disk`, `kernel` and `initrd`, made first unless it is there.

    It is kept in `.vm`, under a name that stands for what it was made from; one of another name is removed.
    """
    made = _CACHE / _key()
    if not made.is_dir():
        _run("rm", "-rf", "--one-file-system", str(_CACHE))
        unfinished = _CACHE / "unfinished"
        unfinished.mkdir(parents=True)
        print("making the machine's disk (two minutes, once)", flush=True)
        _make(unfinished)
        unfinished.rename(made)
    return made


def _key() -> str:
    made_from = hashlib.sha256(json.dumps([_project(), _dev(), *_build_requirements()]).encode())
    for path in (Path(__file__), *sorted(_GUEST.iterdir())):
        made_from.update(path.read_bytes())
    return made_from.hexdigest()[:12]


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((SOURCE / "pyproject.toml").read_text())


def _project() -> dict[str, Any]:
    project: dict[str, Any] = _pyproject()["project"]
    return project


def _dev() -> list[str]:
    requirements: list[str] = _pyproject()["dependency-groups"]["dev"]
    return requirements


def _build_requirements() -> list[str]:
    requirements: list[str] = _pyproject()["build-system"]["requires"]
    return requirements


def _make(directory: Path) -> None:
    root = directory / "root"
    packages = ",".join(_PACKAGES)
    # What it mounts there is gone with it, even if it is killed.
    own_mounts = ("unshare", "--mount")
    _run(*own_mounts, "mmdebstrap", "--variant=minbase", f"--include={packages}", _RELEASE, str(root))
    _install_python_packages(root)
    shutil.copy(_GUEST / "tests.service", root / "etc/systemd/system")
    shutil.copy(_GUEST / "run-tests", root / "usr/local/sbin")
    # Without an id it would be the machine's first boot, which has more to do than any later one.
    _run("chroot", str(root), "systemd-machine-id-setup")
    (root / "etc/hostname").write_text("shimpy\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost shimpy\n::1 localhost\n")
    for name, pattern in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        (found,) = (root / "boot").glob(pattern)
        shutil.move(found, directory / name)
    disk = directory / "disk"
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), f"{_GIGABYTES}G")
    shutil.rmtree(root)


def _install_python_packages(root: Path) -> None:
    """Does what `make ready` does, for the machine's Python and not for this one."""
    project = _project()
    extras = project["optional-dependencies"].values()
    requirements = list(itertools.chain(project["dependencies"], *extras, _dev()))
    venv, there = root / "opt/venv", root / "root" / project["name"]
    _run("chroot", str(root), "python3", "-m", "venv", "/opt/venv")
    _run(
        *(sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile"),
        *("--target", str(venv / f"lib/python{_PYTHON}/site-packages"), "--upgrade"),
        *("--python-version", _PYTHON, "--only-binary=:all:"),
        *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"),
        *(*requirements, *_build_requirements(), "editables"),
    )
    (there / "shimpy").mkdir(parents=True)
    (there / "shimpy/__init__.py").touch()
    # What the name and the entry points of an editable install come from; the code is there at the run.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, there)
    _run(
        *("chroot", str(root), "/opt/venv/bin/python", "-m", "pip", "install", "-qq"),
        *("--disable-pip-version-check", "--root-user-action=ignore"),
        *("--no-index", "--no-deps", "--no-build-isolation", "--editable", f"/root/{project['name']}"),
    )
    # An emulated processor would take long to compile them, and would in each run.
    _run("chroot", str(root), "/opt/venv/bin/python", "-m", "compileall", "-q", "/opt/venv/lib")


def _run(*command: str) -> None:
    """Runs a command, and shows what it says only if it fails."""
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"{done.stdout}the machine's disk could not be made: {command[0]} failed")
