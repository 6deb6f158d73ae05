"""A root filesystem with this machine's own programs in it: its /usr, mounted read-only."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shimpy

# What /usr holds where it is merged.
_LINKS = ("bin", "lib", "lib64", "sbin")


def programs(*names: str) -> bool:
    """Returns whether the machine's /usr has all of these programs."""
    return all(Path("/usr/bin", name).exists() for name in names)


@contextmanager
def usr_root() -> Iterator[Path]:
    """Makes it, for the time of the block; `options` has what is to be mounted."""
    with tempfile.TemporaryDirectory(prefix="shimpy-tests-", dir="/var/tmp") as directory:
        root = Path(directory, "rootfs")
        for path in (
            root.parent,
            root,
            *(root / name for name in ("dev", "etc", "proc", "sys", "tmp", "usr")),
        ):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        for name in _LINKS:
            (root / name).symlink_to(f"usr/{name}")
        (root / "etc" / "passwd").write_text("root:x:0:0:root:/tmp:/bin/sh\n")
        if Path("/etc/ld.so.cache").exists():
            shutil.copy("/etc/ld.so.cache", root / "etc")
        yield root


def options(**more: Any) -> dict[str, Any]:
    """Returns the options that the root is run with."""
    return {"mounts": [shimpy.BindMount("/usr", "/usr")], "env": {"HOME": "/tmp"}, **more}
