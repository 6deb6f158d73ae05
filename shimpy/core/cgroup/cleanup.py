"""What a runtime that was killed in the middle of `create` leaves among the cgroups."""

from __future__ import annotations

import asyncio
import logging
import os
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from shimpy import linux
from shimpy.core.cgroup.hierarchies import PROC, UNIFIED, Hierarchies, StrPath, unified_path
from shimpy.core.cgroup.tree import Tree
from shimpy.errors import ShimError

_log = logging.getLogger(__name__)

_DEATH = 2.0  # seconds that what was killed gets to leave its cgroups


def leftover_paths(spec: Mapping[str, Any], container_id: str, *, proc: StrPath = PROC) -> list[str]:
    """Returns the cgroups that a runtime with the cgroupfs driver may make for a container.

    An absolute linux.cgroupsPath counts from the root of each hierarchy, a relative one, or the
    id where there is none, from the caller's own cgroup (runc, version 1), from the one above
    that (runc, version 2), or from the root (crun).

    Args:
        spec: the bundle's config.json.
        container_id: as the runtime gets it.
        proc: where procfs is.
    """
    return _leftover_paths(spec, container_id, Hierarchies(proc))


def _leftover_paths(spec: Mapping[str, Any], container_id: str, hierarchies: Hierarchies) -> list[str]:
    asked = (spec.get("linux") or {}).get("cgroupsPath") or container_id
    inner = posixpath.normpath("/" + asked)
    found: dict[str, None] = {}  # in order, each once
    for controller, own in hierarchies.own.items():
        bases = ["/"]
        if not asked.startswith("/"):
            bases.append(own)
            if controller == UNIFIED:
                bases.append(posixpath.dirname(own))
        for path in dict.fromkeys(posixpath.normpath(base + inner) for base in bases):
            found.update(dict.fromkeys(hierarchies.directories(controller, path)))
    return list(found)


class Leftovers:
    """The cgroups that one `create` may make: what was not there before can be removed after.

    The runtime itself forgets them: killed at a random moment, runc leaves ten directories behind
    in every third case where it has not yet written the state that `runc delete` would go by; and
    of a nested linux.cgroupsPath it always leaves what is above the container's own.

    What is above may be shared by containers, each of which counts it as made as long as another of
    this process does: the last that goes removes it.

    Attributes:
        hierarchies: as they were seen before the `create`.
    """

    # How many of this process's containers were created below what one of them has made.
    _shared: ClassVar[Counter[str]] = Counter()

    def __init__(self, leaves: list[str], above: list[str], hierarchies: Hierarchies, proc: StrPath) -> None:
        self.hierarchies = hierarchies
        self._leaves = leaves
        self._above = above
        self._proc = proc
        self._made: list[str] = []
        self._shared.update(above)

    @classmethod
    def before(cls, spec: Mapping[str, Any], container_id: str, *, proc: StrPath = PROC) -> Leftovers:
        """Notes what is not there yet, right before the runtime is started.

        Ends with `remove` or `remove_above`.

        Args:
            spec: the bundle's config.json.
            container_id: as the runtime gets it.
            proc: where procfs is.
        """
        hierarchies = Hierarchies(proc)
        leaves = [p for p in _leftover_paths(spec, container_id, hierarchies) if not os.path.exists(p)]
        there = {mount.point for mount in hierarchies.mounts}
        for controller, own in hierarchies.own.items():
            there.update(hierarchies.directories(controller, own))
        above: set[str] = set()
        for leaf in leaves:
            parent = posixpath.dirname(leaf)
            while parent not in there and (cls._shared[parent] > 0 or not os.path.exists(parent)):
                above.add(parent)
                parent = posixpath.dirname(parent)
        return cls(leaves, sorted(above, key=lambda path: -path.count("/")), hierarchies, proc)

    @classmethod
    def known(cls, fields: Mapping[str, Any], hierarchies: Hierarchies) -> Leftovers:
        """Returns those of a `create` of an earlier shim.

        Args:
            fields: as `recorded` returned them.
            hierarchies: as they are seen now.
        """
        leftovers = cls(list(fields["leaves"]), list(fields["above"]), hierarchies, PROC)
        leftovers._made = list(fields["made"])
        return leftovers

    def recorded(self) -> dict[str, list[str]]:
        """Returns what has to be known to have the same again."""
        return {"leaves": list(self._leaves), "above": list(self._above), "made": list(self._made)}

    def keep(self, paths: Mapping[str, str]) -> None:
        """Notes which of them are the container's, now that it is created.

        Args:
            paths: the cgroups of its init, as `memberships` returns them.
        """
        places = {
            place
            for controller, path in paths.items()
            for place in self.hierarchies.directories(controller, path)
        }
        self._made = [leaf for leaf in self._leaves if leaf in places]

    async def prune(self, *, but: Collection[str] = ()) -> None:
        """Removes what a dead container has made below its own; see Tree.prune.

        Args:
            but: those that are pruned already.
        """
        for leaf in self._made:
            if leaf not in but:
                await Tree(leaf).prune()

    def remove_above(self) -> None:
        """Removes what is above the container's own and was not there before, unless it is in use."""
        for path in self._above:
            self._shared[path] -= 1
            if self._shared[path] <= 0:
                del self._shared[path]
                with suppress(OSError):
                    os.rmdir(path)
        self._above.clear()

    def had(self, pid: int) -> bool:
        """Returns whether a zombie is certain to have died in one of them; see Cgroup.had."""
        try:
            path = unified_path(pid, self._proc)
        except OSError:
            return False
        if path is None:
            return False
        return any(place in self._leaves for place in Hierarchies(self._proc).directories(UNIFIED, path))

    async def remove(self) -> list[str]:
        """Removes what the failed `create` has made, after the runtime's own clean-up.

        What still runs there is killed if it descends from this process (to which the children of
        a killed runtime are reparented if this is a subreaper). A cgroup that was there before is
        never touched, nor one where another's processes run, nor one above that is in use.

        Returns:
            The container's cgroups that are still there, to be logged.
        """
        for leaf in self._leaves:
            try:
                await self._empty(Tree(leaf))
            except (OSError, ShimError) as error:
                _log.warning("cannot empty cgroup %s of a failed create: %s", leaf, error)
        left = [leaf for leaf in self._leaves if not Tree(leaf).remove()]
        self.remove_above()
        for path in left:
            _log.warning("cgroup %s of a failed create is in use and stays", path)
        return left

    async def _empty(self, tree: Tree) -> None:
        pids = tree.pids()
        if not all(map(self._descends, pids)):
            return
        if pids:
            with suppress(TimeoutError):
                await asyncio.wait_for(tree.kill(), _DEATH)
        await tree.prune()

    def _descends(self, pid: int) -> bool:
        while pid > 1:
            try:
                status = os.fsdecode(linux.read_file(os.path.join(self._proc, str(pid), "status")))
            except (FileNotFoundError, ProcessLookupError):
                return True  # it has ended
            parent = re.search(r"^PPid:\s*(\d+)", status, re.MULTILINE)
            pid = int(parent[1]) if parent else 0
            if pid == os.getpid():
                return True
        return False
