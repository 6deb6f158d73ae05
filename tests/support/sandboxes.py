"""A container to run commands in, and what may be left of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import shimpy
from tests.support import containers


@contextlib.asynccontextmanager
async def sandbox(
    bundle: Callable[..., str], container_id: str, **options: object
) -> AsyncIterator[shimpy.Container]:
    """Runs a container that stays, under a shim in this process.

    Args:
        bundle: the fixture.
        container_id: its name.
        options: of the bundle.
    """
    async with (
        shimpy.in_process() as client,
        client.container(container_id, bundle("sleep", "1000000", **options)) as container,
    ):
        yield container


async def sh(container: shimpy.Container, script: str) -> str:
    """Returns what a script prints in the container."""
    result = await container.run(["sh", "-c", script])
    assert result.exit_status == 0, result
    return result.stdout.decode()


def inside(container_id: str) -> set[int]:
    """Returns the pids of everything in a container, found by its cgroups."""
    return {
        int(pid)
        for cgroup in containers.cgroups(container_id)
        for directory, _, _ in os.walk(cgroup)
        for pid in _read(Path(directory) / "cgroup.procs").split()
    }


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # removed meanwhile
        return ""
