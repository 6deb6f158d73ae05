"""What a machine must have for containers to run on it."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

# The OCI runtime of the service in tests that say nothing else.
RUNTIME = os.environ.get("SHIMPY_TEST_RUNTIME", "runc")


@functools.cache
def lacking() -> str:
    """Returns what this machine lacks for running containers, in words; empty if nothing."""
    lacks = []
    if os.geteuid() != 0:
        lacks.append("root")
    lacks += [runtime for runtime in sorted({"runc", RUNTIME}) if shutil.which(runtime) is None]
    if shutil.which("busybox") is None:
        lacks.append("busybox-static")
    if not Path("/sys/fs/cgroup").is_mount() and not any(Path("/sys/fs/cgroup").iterdir()):
        lacks.append("cgroups at /sys/fs/cgroup")
    return ", ".join(lacks)
