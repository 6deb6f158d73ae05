"""What shimpy may do with the cgroups of one container."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shimpy.core.cgroup.cleanup import Leftovers
from shimpy.core.cgroup.freezer import FreezerTree
from shimpy.core.cgroup.hierarchies import (
    PROC,
    UNIFIED,
    Hierarchies,
    StrPath,
    listed,
    memberships,
    unified_of,
    unified_path,
)
from shimpy.core.cgroup.oom import EventsWatch, OomControlWatch, OomWatch
from shimpy.core.cgroup.tree import Tree
from shimpy.core.cgroup.unified import UnifiedTree
from shimpy.core.cgroup.walk import walk
from shimpy.core.reaper.procfs import start_time

_log = logging.getLogger(__name__)


class Cgroup:
    """The cgroups of one container: one tree to kill it through, one to hear of the OOM killer.

    Each may be missing. The runtime may have left the container in our own cgroup (rootless, with
    no right to make one), it may have joined one that others are in already, there may be no
    mount: then nothing is killed here, and nothing is watched, since it would hit or tell of
    others.

    Args:
        tree: what holds the container's processes and no others, or None.
        memory: the directory in whose counter its OOM kills show, or None.
        unified: whether that directory is of version 2.
        home: the path in the version 2 hierarchy that is the container's own, or None.
        made: what the container's create has made, in every hierarchy, or None.
    """

    def __init__(
        self,
        tree: Tree | None = None,
        *,
        memory: StrPath | None = None,
        unified: bool = False,
        home: str | None = None,
        made: Leftovers | None = None,
    ) -> None:
        self._tree = tree
        self._memory = memory
        self._unified = unified
        self._home = home
        self._made = made

    @classmethod
    def of(cls, pid: int, *, made: Leftovers | None = None, proc: StrPath = PROC) -> Cgroup:
        """Returns the cgroups of a container, as far as they are fit to be used.

        The freezer of version 1 goes before version 2 where a machine has both (the hybrid set-up
        of systemd), since that is what a runtime pauses with there.

        Args:
            pid: the container's init, right after the runtime has created it: what is older than
                it in its cgroups belongs to someone else.
            made: what was not there before that, to be removed with the container.
            proc: where procfs is.
        """
        tree: Tree | None = None
        hierarchies = made.hierarchies if made else Hierarchies(proc)
        paths = memberships(pid, proc)
        version_2 = _own(hierarchies, pid, paths, UNIFIED)
        home = unified_of(paths) if version_2 else None
        if path := _own(hierarchies, pid, paths, "freezer"):
            escape_cgroup = hierarchies.own_directory("freezer")
            tree = FreezerTree(path, escape_cgroup=escape_cgroup, mounts=hierarchies.mounts)
        elif version_2:
            tree = UnifiedTree(version_2, mounts=hierarchies.mounts)
        if made:
            made.keep(paths)
        if memory := _own(hierarchies, pid, paths, "memory"):
            return cls(tree, memory=memory, home=home, made=made)
        if version_2 and os.path.exists(os.path.join(version_2, "memory.events")):
            return cls(tree, memory=version_2, unified=True, home=home, made=made)
        return cls(tree, home=home, made=made)

    def recorded(self) -> dict[str, Any]:
        """Returns what has to be known to have the same ones again, each with its inode number."""
        tree = self._tree
        return {
            "tree": None if tree is None else [tree.path, inode(tree.path)],
            "freezer": isinstance(tree, FreezerTree),
            "memory": None if self._memory is None else [os.fspath(self._memory), inode(self._memory)],
            "unified": self._unified,
            "home": self._home,
            "made": None if self._made is None else self._made.recorded(),
        }

    @classmethod
    def known(cls, fields: Mapping[str, Any]) -> Cgroup:
        """Returns the cgroups of a container that an earlier shim has created.

        One that has been removed and made anew since has another inode number, and is not the container's.

        Args:
            fields: as `recorded` returned them.
        """
        hierarchies = Hierarchies()
        tree: Tree | None = None
        if (path := same_cgroup(fields.get("tree"))) and not hierarchies.show_us_below(path):
            if fields.get("freezer"):
                escape_cgroup = hierarchies.own_directory("freezer")
                tree = FreezerTree(path, escape_cgroup=escape_cgroup, mounts=hierarchies.mounts)
            else:
                tree = UnifiedTree(path, mounts=hierarchies.mounts)
        made = fields.get("made")
        return cls(
            tree,
            memory=same_cgroup(fields.get("memory")),
            unified=bool(fields.get("unified")),
            home=fields.get("home"),
            made=None if made is None else Leftovers.known(made, hierarchies),
        )

    def known_child(self, place: Sequence[Any] | None) -> Tree | None:
        """Returns the cgroup that an earlier shim has made for an exec.

        Args:
            place: its path and inode number.
        """
        path = same_cgroup(place)
        return None if path is None or self._tree is None else self._tree.known_child(path)

    @property
    def killable(self) -> bool:
        """Whether there is a tree of the container's own, so that `kill` can do something."""
        return self._tree is not None

    def pids(self) -> list[int]:
        """Returns all processes of the container that are not zombies; none if not `killable`."""
        return self._tree.pids() if self._tree else []

    def populated(self) -> bool:
        """Returns whether anything runs in the container; False if not `killable`."""
        return self._tree is not None and self._tree.populated()

    def had(self, pid: int) -> bool:
        """Returns whether a process, running or a zombie, is certain to be of the container.

        Never, on a machine that has version 1 alone: a zombie has left its cgroups there.
        """
        if self._home is None:
            return False
        try:
            path = unified_path(pid)
        except OSError as error:
            # Longer than any path that the kernel tells: only a container nests cgroups so deep.
            return error.errno == errno.ENAMETOOLONG
        return path is not None and (path == self._home or path.startswith(f"{self._home}/"))

    async def kill(self) -> None:
        """Kills all that runs in the container; see Tree.kill. Nothing at all if not `killable`.

        Raises:
            InternalError: the kernel refused.
        """
        if self._tree:
            await self._tree.kill()

    def signal(self, signum: int) -> None:
        """Sends a signal to all that runs in the container; nothing at all if not `killable`.

        Args:
            signum: the number of the signal.
        """
        if self._tree:
            self._tree.signal(signum)

    def frozen(self) -> bool:
        """Returns whether the container is frozen, as a whole; False if not `killable`."""
        return self._tree is not None and self._tree.frozen()

    def thaw(self) -> bool:
        """Lets everything in the container go on, as after a Pause that was called off.

        Returns:
            False where the kernel refused; that is logged.
        """
        return self._tree is None or self._tree.thaw()

    async def prune(self) -> None:
        """Removes the cgroups that a dead container has made below its own, in every hierarchy.

        The runtime, which removes the container's own, goes by path: it cannot remove what is nested
        deeper than the longest path that the kernel takes.
        """
        if self._tree:
            await self._tree.prune()
        pruned = [] if self._tree is None else [self._tree.path]
        if self._memory and self._memory not in pruned:
            pruned.append(os.fspath(self._memory))
            await Tree(self._memory).prune()
        if self._made:
            await self._made.prune(but=pruned)

    def forget(self) -> None:
        """Removes what the create has made above the container's own, once the runtime has removed that."""
        if self._made:
            self._made.remove_above()

    def child(self, name: str) -> Tree | None:
        """Makes a cgroup below the container's, for one exec'd process; see Tree.child.

        Args:
            name: one path component that nothing else of this container has.
        """
        return self._tree.child(name) if self._tree else None

    def watch_oom(self, callback: Callable[[int], None], seen: Mapping[str, int] | None = None) -> OomWatch:
        """Begins to watch for the OOM killer, in the running event loop; see OomWatch.

        Args:
            callback: called with how many processes were killed since the last call.
            seen: what was reported before, as `OomWatch.seen` has it; None: what has happened until now is
                not reported.
        """
        try:
            if self._memory:
                return (EventsWatch if self._unified else OomControlWatch)(self._memory, callback, seen)
        except OSError as error:
            _log.warning("OOM kills of the container will not be reported: %s", error)
        return OomWatch(callback)


def inode(path: StrPath) -> int:
    """Returns the inode number of a cgroup's directory, 0 if it is not there."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def same_cgroup(place: Sequence[Any] | None) -> str | None:
    """Returns the path of a cgroup if what is there has the inode number that it had."""
    if not place:
        return None
    path, number = str(place[0]), int(place[1])
    return path if number and inode(path) == number else None


def _own(hierarchies: Hierarchies, pid: int, paths: Mapping[str, str], controller: str) -> str | None:
    for path in hierarchies.places(controller, paths):
        members = [listed(cgroup) for cgroup in walk(path)]
        if not members or pid not in members[0]:
            continue  # it is hidden by another mount, or another namespace's view
        others = {other for each in members for other in each} - {pid}
        strangers = [other for other in others if _is_older(other, pid)]
        if strangers:
            _log.warning("the container shares %s with process %d", path, strangers[0])
            return None
        return path
    return None


def _is_older(other: int, pid: int) -> bool:
    try:
        started = start_time(other)
    except OSError:
        return False  # it has ended
    try:
        return started < start_time(pid)
    except OSError:
        return True  # init has ended, and nothing of it is certain any more
