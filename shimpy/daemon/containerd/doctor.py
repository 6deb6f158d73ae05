"""Whether a machine has all that containers under containerd need, and what it lacks."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from shimpy.core.cgroup.hierarchies import UNIFIED, mounts
from shimpy.core.runtime.advisories import known_escapes
from shimpy.daemon.containerd.configuration import may_lower_oom_scores

Verdict = Literal["ok", "note", "missing"]

OLDEST_KERNEL: Final = (5, 4)
OLDEST_CONTAINERD: Final = (1, 6)

# Controllers without which limits and statistics do not work.
_CONTROLLERS: Final = ("cpu", "memory", "pids")
_TIMEOUT: Final = 10.0


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        verdict: "ok"; "note": something does not work without it; "missing": nothing does.
        what: the thing.
        text: what was found, or what is lacking, and what to do.
    """

    verdict: Verdict
    what: str
    text: str


def examine(runtime: str = "runc", shim: str = "containerd-shim-shimpy-v2") -> list[Finding]:
    """Looks at the machine.

    Args:
        runtime: the OCI runtime, a name on PATH or a path.
        shim: the name, or the path, by which containerd finds shimpy.
    """
    return [
        _permissions(), _kernel(), *_features(), _cgroups(),
        *_runtime(runtime), _containerd(), _shim(shim), _criu(),
    ]  # fmt: skip


def version_of(text: str) -> tuple[int, int] | None:
    """Returns the first two numbers of a version that a program prints, None if it prints none."""
    found = re.search(r"(?:^|\s)v?(\d+)\.(\d+)", text)
    return None if found is None else (int(found[1]), int(found[2]))


def containerd_version() -> tuple[int, int] | None:
    """Returns the version of the containerd on PATH, None if there is none."""
    return version_of(_ask("containerd", "--version"))


def _ask(*command: str) -> str:
    """Returns what a program prints; nothing if it is not there or does not answer."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _permissions() -> Finding:
    if os.geteuid() != 0:
        return Finding("missing", "permissions", "containerd's shim runs as root; rootless is not supported")
    if not may_lower_oom_scores():
        return Finding(
            "note", "permissions",
            "root without CAP_SYS_RESOURCE: set restrict_oom_score_adj in containerd's configuration",
        )  # fmt: skip
    return Finding("ok", "permissions", "root")


def _kernel() -> Finding:
    release = platform.release()
    found = version_of(release)
    if found is None or found < OLDEST_KERNEL:
        return Finding(
            "missing", "kernel", f"Linux {release}; {OLDEST_KERNEL[0]}.{OLDEST_KERNEL[1]} is needed"
        )
    return Finding("ok", "kernel", f"Linux {release}")


def _features() -> Iterator[Finding]:
    with open("/proc/filesystems", encoding="ascii") as file:
        filesystems = {line.split()[-1] for line in file}
    if "overlay" not in filesystems:
        yield Finding("note", "overlay", "not there (modprobe overlay?): images need another snapshotter")
    found = version_of(platform.release()) or (0, 0)
    if found < (5, 12):
        yield Finding("note", "id-mapped mounts", "Linux 5.12 has them: no pods with user namespaces")
    for name in ("pid", "mnt", "net", "ipc", "uts", "user", "cgroup"):
        if not os.path.exists(f"/proc/self/ns/{name}"):
            needed: Verdict = "note" if name in ("user", "cgroup") else "missing"
            yield Finding(needed, f"{name} namespaces", "the kernel was built without them")


def _cgroups() -> Finding:
    there = mounts()
    if not there:
        return Finding("missing", "cgroups", "none are mounted at /sys/fs/cgroup")
    if all(mount.controllers == {UNIFIED} for mount in there):
        version = "version 2"
        with open(os.path.join(there[0].point, "cgroup.controllers"), encoding="ascii") as file:
            controllers = set(file.read().split())
    else:
        version = "version 1"
        controllers = {name for mount in there for name in mount.controllers}
    if lacking := [name for name in _CONTROLLERS if name not in controllers]:
        return Finding("missing", "cgroups", f"{version}, without the controllers {', '.join(lacking)}")
    return Finding("ok", "cgroups", version)


def _runtime(runtime: str) -> Iterator[Finding]:
    told = _ask(runtime, "--version")
    if not told:
        yield Finding("missing", "runtime", f"there is no {runtime} on PATH, or it does not run")
        return
    yield Finding("ok", "runtime", told.splitlines()[0])
    for name in known_escapes(told):
        yield Finding("note", "runtime", f"vulnerable to {name}, unless your distribution has the fix")


def _containerd() -> Finding:
    found = containerd_version()
    if found is None:
        return Finding("missing", "containerd", "it is not on PATH")
    name = ".".join(map(str, found))
    if found < OLDEST_CONTAINERD:
        return Finding("missing", "containerd", f"version {name}; 1.6 is the oldest that is supported")
    return Finding("ok", "containerd", f"version {name}")


def _shim(shim: str) -> Finding:
    path = shutil.which(shim)
    if path is None:
        return Finding("missing", "shim", f"{shim} is not on PATH: shimpy containerd install")
    if not (told := _ask(path, "-v")):
        return Finding("missing", "shim", f"{path} does not run: shimpy containerd install")
    return Finding("ok", "shim", f"{path}: {told.strip().partition(': ')[2]}")


def _criu() -> Finding:
    found = re.search(r"\d+\.\d+(\.\d+)?", _ask("criu", "--version"))
    if found is None:
        return Finding("note", "criu", "it is not on PATH: no checkpoints")
    return Finding("ok", "criu", f"version {found[0]}")
