"""Shims that are started by the command, and by a containerd."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support import machine
from tests.support.containerd import BINARIES, Containerd
from tests.support.shimv2 import Shims
from tests.support.time_scale import scaled


@pytest.fixture
async def shims() -> AsyncIterator[Shims]:
    # Not the test's own directory: the path of a socket in it may be too long.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        shims = Shims(Path(directory))
        yield shims
        await shims.aclose()


@pytest.fixture(scope="session")
def session_containerd() -> Iterator[Containerd]:
    """A containerd for all tests of a worker."""
    if not BINARIES and (shutil.which("containerd") is None or shutil.which("ctr") is None):
        pytest.skip("containerd is not installed")
    if lacking := machine.lacking():
        pytest.skip(f"containers need {lacking}")
    containerd = Containerd()
    yield containerd
    containerd.close()


@pytest.fixture
def containerd(session_containerd: Containerd, new_id: Callable[[], str]) -> Iterator[Containerd]:
    """containerd, of which every test leaves no container and no shim."""
    yield session_containerd
    left = session_containerd.ctr("containers", "ls", "-q").stdout.decode().split()
    for name in left:
        session_containerd.remove(name)


@pytest.fixture
def running(containerd: Containerd, rootfs: Path, new_id: Callable[[], str]) -> str:
    """A container that runs until it is killed."""
    name = new_id()
    containerd.run("-d", rootfs=rootfs, name=name, command=["sh", "-c", "sleep 1000000 & wait"])
    return name


@pytest.fixture
def ctr_terminal(containerd: Containerd) -> Iterator[Callable[..., pexpect.spawn[str]]]:
    """Starts calls of ctr with a terminal, of 77 columns and 33 rows."""
    made: list[pexpect.spawn[str]] = []

    def run(*arguments: str) -> pexpect.spawn[str]:
        words = containerd.command(*arguments)
        made.append(
            pexpect.spawn(words[0], words[1:], encoding="utf-8", timeout=scaled(30), dimensions=(33, 77))
        )
        return made[-1]

    yield run
    for each in made:
        each.close(force=True)
