"""What shimpy may do with the cgroups of one container."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from shimpy.cgroup.mounts import PROC, UNIFIED, StrPath, View, below, listed, unified_path
from shimpy.cgroup.oom import EventsWatch, OomControlWatch, OomWatch
from shimpy.cgroup.tree import FreezerTree, Tree, UnifiedTree

_log = logging.getLogger(__name__)


class Cgroup:
    """The cgroups of one container: one tree to kill it through, one to hear of the OOM killer.

    Each may be missing. The runtime may have left the container in our own cgroup (rootless, with
    no right to make one), it may have joined one that others are in already, there may be no
    mount: then nothing is killed here, and nothing is watched, since it would hit or tell of
    others.

    Args:
        tree: what holds the container's processes and nobody else's, or None.
        memory: the directory in whose counter its OOM kills show, or None.
        unified: whether that directory is of version 2.
        home: the path in the version 2 hierarchy that is the container's own, or None.
    """

    def __init__(
        self,
        tree: Tree | None = None,
        *,
        memory: StrPath | None = None,
        unified: bool = False,
        home: str | None = None,
    ) -> None:
        self._tree = tree
        self._memory = memory
        self._unified = unified
        self._home = home

    @classmethod
    def of(cls, pid: int, *, proc: StrPath = PROC) -> Cgroup:
        """Returns the cgroups of a container, as far as they are fit to be used.

        The freezer of version 1 goes before version 2 where a machine has both (the hybrid set-up
        of systemd), since that is what a runtime pauses with there.

        Args:
            pid: the container's init, right after the runtime has created it: what is older than
                it in its cgroups belongs to someone else.
            proc: where procfs is.
        """
        tree: Tree | None = None
        view = View(proc)
        version_2 = _own(view, pid, UNIFIED, proc)
        home = unified_path(pid, proc) if version_2 else None
        if path := _own(view, pid, "freezer", proc):
            tree = FreezerTree(path, refuge=view.own_directory("freezer"))
        elif version_2:
            tree = UnifiedTree(version_2)
        if memory := _own(view, pid, "memory", proc):
            return cls(tree, memory=memory, home=home)
        if version_2 and os.path.exists(os.path.join(version_2, "memory.events")):
            return cls(tree, memory=version_2, unified=True, home=home)
        return cls(tree, home=home)

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
        path = unified_path(pid) if self._home else None
        return path is not None and (path == self._home or path.startswith(f"{self._home}/"))

    async def kill(self) -> None:
        """Kills all that runs in the container; see Tree.kill. Nothing at all if not `killable`.

        Raises:
            InternalError: the kernel refused.
        """
        if self._tree:
            await self._tree.kill()

    def frozen(self) -> bool:
        """Returns whether the container is frozen, as a whole; False if not `killable`."""
        return self._tree is not None and self._tree.frozen()

    def thaw(self) -> None:
        """Lets everything in the container go on, as after a Pause that was called off."""
        if self._tree:
            self._tree.thaw()

    def child(self, name: str) -> Tree | None:
        """Makes a cgroup below the container's, for one exec'd process; see Tree.child.

        Args:
            name: one path component that nothing else of this container has.
        """
        return self._tree.child(name) if self._tree else None

    def watch_oom(self, callback: Callable[[int], None]) -> OomWatch:
        """Begins to watch for the OOM killer, in the running event loop; see OomWatch.

        Args:
            callback: called with how many processes were killed since the last call.
        """
        try:
            if self._memory:
                return (EventsWatch if self._unified else OomControlWatch)(self._memory, callback)
        except OSError as error:
            _log.warning("OOM kills of the container will not be reported: %s", error)
        return OomWatch(callback)


def _own(view: View, pid: int, controller: str, proc: StrPath) -> str | None:
    path = view.find(pid, controller)
    if path is None:
        return None
    others = {other for directory in below(path) for other in listed(directory)} - {pid}
    born = _start_time(pid, proc)
    strangers = [other for other in others if _start_time(other, proc) < born]
    if strangers:
        _log.warning("the container shares %s with process %d", path, strangers[0])
        return None
    return path


def _start_time(pid: int, proc: StrPath) -> int:
    """Returns when a process was started, in clock ticks since boot (proc_pid_stat(5))."""
    try:
        with open(os.path.join(proc, str(pid), "stat"), errors="surrogateescape") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 2**64  # gone, and so older than nobody
    return int(stat.rpartition(")")[2].split()[19])
