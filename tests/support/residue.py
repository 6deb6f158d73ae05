"""What is left behind when all should be gone: this process and the machine, before and after."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.containers import RUN
from tests.support.leaks import children, descriptors, threads
from tests.support.time_scale import scaled

_HIERARCHIES = Path("/sys/fs/cgroup")


def cgroups(prefix: str = RUN) -> list[str]:
    """Returns the cgroups of all containers whose ids begin with *prefix*, in every hierarchy."""
    return sorted(
        os.path.join(parent, name)
        for parent, names, _ in os.walk(_HIERARCHIES)
        for name in names
        if name.startswith(prefix)
    )


def processes(prefix: str = RUN) -> list[int]:
    """Returns what still runs in the cgroups of these containers."""
    found: set[int] = set()
    for cgroup in cgroups(prefix):
        for directory, _, _ in os.walk(cgroup):
            with contextlib.suppress(OSError):
                found.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
    return sorted(found)


def pseudo_terminals() -> set[str]:
    """Returns the terminals that there are on this machine's own devpts."""
    return {name for name in os.listdir("/dev/pts") if name.isdecimal()}


def snapshot() -> dict[str, Counter[Any]]:
    """What there must be no more of afterwards than before, each with how often there is one.

    All of it is this run's own: the temporary files are those of the directory that this worker has for
    itself (conftest.py), the cgroups those of its containers.
    """
    return {
        "file descriptors": Counter(descriptors().values()),
        "children": Counter(list(children())),
        "threads": Counter(thread=threads()),
        "temporary files": Counter(os.listdir(tempfile.gettempdir())),
        "cgroups": Counter(cgroups()),
    }


def new_since(before: dict[str, Counter[Any]]) -> dict[str, list[Any]]:
    """Returns what there is now and was not there before; what goes meanwhile is somebody else's."""
    now = snapshot()
    return {what: [*more.elements()] for what in now if (more := now[what] - before[what])}


@contextlib.contextmanager
def nothing_left(*, within: float = 5, judged: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Fails if there is anything at the end that was not there at the beginning.

    Args:
        within: seconds for what the kernel and threads that wait in a FIFO do in their own time.
        judged: asked at the end; False says that the test has failed of something else.
    """
    before = snapshot()
    yield
    end = time.monotonic() + scaled(within)
    while (left := new_since(before)) and judged() and time.monotonic() < end:
        time.sleep(0.01)
    if judged():
        assert left == {}, f"what the test left behind: {left}"


def tasks() -> int:
    """Returns how many tasks the running event loop has."""
    return len(asyncio.all_tasks())
