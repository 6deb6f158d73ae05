"""A container to run commands in, on each way to a shim."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import shimpy
from tests.support import bundles
from tests.support.leaks import eventually
from tests.support.sandboxes import sandbox
from tests.support.servers import Server


@pytest.fixture
async def sandboxed(bundle: Callable[..., str], new_id: Callable[[], str]) -> AsyncIterator[shimpy.Container]:
    """A container that stays, under a shim in this process."""
    async with sandbox(bundle, new_id()) as container:
        yield container


@pytest.fixture
def closed_rootfs() -> Iterator[Path]:
    """A root filesystem of the test's own, in a directory that only root may pass."""
    with tempfile.TemporaryDirectory(prefix="shimpy-tests-", dir="/var/tmp") as directory:
        yield bundles.make_rootfs(Path(directory, "rootfs"))


@pytest.fixture(params=["in_process", "connect"])
async def reached(
    request: pytest.FixtureRequest, bundle: Callable[..., str], new_id: Callable[[], str], server: Server
) -> AsyncIterator[shimpy.Container]:
    """A container that stays, reached in this process and over a socket."""
    path = bundle("sh", "-c", "trap 'exit 3' TERM; sleep 1000000 & wait")
    ways = {"in_process": shimpy.in_process, "connect": lambda: shimpy.connect(server.socket)}
    async with ways[request.param]() as client, client.container(new_id(), path) as container:
        await trap_set(container.pid)
        yield container


async def trap_set(pid: int) -> None:
    """Waits until a shell whose script begins with a trap has a child, which comes after that."""
    await eventually(lambda: Path(f"/proc/{pid}/task/{pid}/children").read_text() != "")
