"""What a runtime holds of the containers of this run: finding it and removing it."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

# The prefix of every container id of this run.
RUN = f"shimpy-test-{os.getpid()}-"

_STATE = {"runc": Path("/run/runc"), "crun": Path("/run/crun")}
_numbers = itertools.count(1)


def new_id() -> str:
    """Returns an id that no other container has."""
    return f"{RUN}{next(_numbers)}"


def left(prefix: str = RUN) -> list[str]:
    """Returns the ids that a runtime still holds, of those that begin with *prefix*."""
    return sorted(
        entry.name
        for directory in _STATE.values()
        if directory.is_dir()
        for entry in directory.iterdir()
        if entry.name.startswith(prefix)
    )


def remove(container_id: str) -> None:
    """Removes a container with everything in it; nothing happens if there is none."""
    for runtime, directory in _STATE.items():
        if (directory / container_id).exists():
            subprocess.run([runtime, "resume", container_id], check=False, capture_output=True)
            subprocess.run([runtime, "delete", "--force", container_id], check=False, capture_output=True)


def cgroups(container_id: str) -> list[str]:
    """Returns the cgroups of a container, in every hierarchy, as paths."""
    return [
        os.path.join(parent, name)
        for parent, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if container_id in (name, name.removesuffix(".scope"))
    ]
