"""Reapers of both kinds, and that each puts back what it changed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from shimpy.core.reaper import Reaper
from tests.support.forks import is_subreaper
from tests.support.leaks import children, descriptors, opened_since


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Everything that the reaper may change, and what it may leave."""
    before, opened = (is_subreaper(), signal.getsignal(signal.SIGCHLD)), descriptors()
    others = children()
    yield
    left = {pid: state for pid, state in children().items() if pid not in others}
    # All of them first: one that another of them traces cannot be waited for while that lives.
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    for pid in left:
        with contextlib.suppress(ChildProcessError):  # asyncio's watcher was quicker
            os.waitpid(pid, 0)
    assert left == {}
    assert (is_subreaper(), signal.getsignal(signal.SIGCHLD)) == before
    assert opened_since(opened) == []


@pytest.fixture
async def sweeping() -> AsyncIterator[Reaper]:
    reaper = Reaper(sweep_orphans=True)
    reaper.open()
    yield reaper
    reaper.close()


@pytest.fixture
async def embedded() -> AsyncIterator[Reaper]:
    reaper = Reaper()
    reaper.open()
    yield reaper
    reaper.close()


@pytest.fixture(params=["sweeping", "embedded"])
def reaper(request: pytest.FixtureRequest) -> Reaper:
    found: Reaper = request.getfixturevalue(request.param)
    return found
