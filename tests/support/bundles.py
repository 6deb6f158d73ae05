"""OCI bundles: a root filesystem with busybox in it, and a config.json."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.machine import RUNTIME

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Spec = dict[str, Any]


def make_rootfs(directory: Path) -> Path:
    """Makes a root filesystem of busybox and all its applets, and returns it.

    Bundles share it read-only; what a container writes goes to a tmpfs at /tmp.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)  # it becomes "/", and pytest's directories are for their owner only
    busybox = directory / "bin" / "busybox"
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    source = shutil.which("busybox")
    assert source is not None
    shutil.copy(source, busybox)
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout
    for applet in applets.split():
        if applet != "busybox":
            (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    (directory / "etc" / "group").write_text("root:x:0:\nuser:x:1000:\n")
    # Not runnable, and not a program: what an exec of them must say is in the contract.
    (directory / "bin" / "not-executable").write_text("#!/bin/sh\n")
    return directory


@functools.cache
def _template() -> Spec:
    """The runtime's own idea of a config.json, so that what is tested is what people have."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([RUNTIME, "spec"], cwd=directory, check=True)
        spec: Spec = json.loads((Path(directory) / "config.json").read_text())
    return spec


def make_bundle(
    directory: Path,
    rootfs: Path,
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    terminal: bool = False,
    user: tuple[int, int] = (0, 0),
    own_pid_namespace: bool = True,
    memory: int | None = None,
    process: Mapping[str, Any] | None = None,
    change: Callable[[Spec], object] | None = None,
) -> str:
    """Writes a bundle into *directory* and returns its path as a request takes it.

    Args:
        directory: where to; it is made.
        rootfs: the root filesystem, from `make_rootfs`; it is mounted read-only.
        args: the program of init and its arguments.
        env: variables beside PATH.
        cwd: where the program starts.
        terminal: `process.terminal`.
        user: uid and gid.
        own_pid_namespace: False shares this machine's, where nothing dies with init.
        memory: the limit of the cgroup, in bytes.
        process: further fields of the `process` object.
        change: called with the whole spec at the end, for everything else.
    """
    spec = copy.deepcopy(_template())
    spec["root"] = {"path": str(rootfs), "readonly": True}
    spec["process"] |= {
        "args": list(args),
        "env": [PATH, *(f"{name}={value}" for name, value in (env or {}).items())],
        "cwd": cwd,
        "terminal": terminal,
        "user": {"uid": user[0], "gid": user[1]},
        **(process or {}),
    }
    spec["mounts"].append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}
    )
    if not own_pid_namespace:
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
    if memory is not None:
        spec["linux"].setdefault("resources", {})["memory"] = {"limit": memory, "swap": memory}
    if change is not None:
        change(spec)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(spec))
    return str(directory)
