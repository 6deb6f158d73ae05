"""Kills and removes what is in cgroups of which nothing is known but where they are."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from contextlib import suppress

from shimpy.core.cgroup.freezer import FreezerTree
from shimpy.core.cgroup.hierarchies import UNIFIED, Hierarchies
from shimpy.core.cgroup.tree import Tree
from shimpy.core.cgroup.unified import UnifiedTree
from shimpy.errors import ShimError

_log = logging.getLogger(__name__)

_DEATH = 2.0  # seconds that what was killed gets to leave its cgroups


async def kill_cgroups(paths: Iterable[str]) -> None:
    """Kills all that runs in some cgroups, frozen or not, and in those below them.

    Args:
        paths: their directories; one that is not there is as good as empty.
    """
    for tree in _trees(paths):
        try:
            async with asyncio.timeout(_DEATH):
                await tree.kill()
        except (TimeoutError, ShimError) as error:
            _log.warning("cgroup %s is not empty yet: %s", tree.path, error)


async def remove_cgroups(paths: Iterable[str]) -> None:
    """Removes cgroups, with those below them, in which nothing runs.

    Args:
        paths: their directories.
    """
    for path in paths:
        tree = Tree(path)
        await tree.prune()
        tree.remove()


def hold(paths: Iterable[str], pid: int) -> bool:
    """Returns whether a process is in one of some cgroups, or below; True if none of them is there.

    Args:
        paths: their directories.
        pid: the process.
    """
    there = [path for path in paths if os.path.isdir(path)]
    return not there or any(pid in Tree(path).pids() for path in there)


def cgroup_of(pid: int, init: int) -> list[str]:
    """Returns the cgroups that a process of a container has for itself.

    Args:
        pid: the process.
        init: the container's; what this one is in too is not the process's own.
    """
    hierarchies = Hierarchies()
    found = []
    for controller in ("freezer", UNIFIED):
        own, inits = hierarchies.find(pid, controller), hierarchies.find(init, controller)
        if own is not None and inits is not None and own.startswith(f"{inits}/"):
            found.append(own)
    return found


def _trees(paths: Iterable[str]) -> list[Tree]:
    """Returns them with those first that can stop what is in them, and so are not outrun."""
    hierarchies = Hierarchies()
    deepest_first = sorted(hierarchies.mounts, key=lambda mount: -len(mount.point))
    trees: list[Tree] = []
    for path in paths:
        with suppress(StopIteration):
            mount = next(m for m in deepest_first if path.startswith(f"{m.point}/"))
            if "freezer" in mount.controllers:
                escape = hierarchies.own_directory("freezer")
                trees.insert(0, FreezerTree(path, escape_cgroup=escape))
            elif UNIFIED in mount.controllers:
                trees.insert(0, UnifiedTree(path))
            else:
                trees.append(Tree(path))
    return trees
