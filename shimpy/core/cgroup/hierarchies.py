"""Where the cgroups of a process are: /proc/PID/cgroup and the mounts that show them (cgroups(7))."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shimpy import linux

# Not pathlib: it interns every name that it sees, and each exec has a new one.
StrPath = str | os.PathLike[str]

PROC = "/proc"

# The name under which the unified (version 2) hierarchy stands among the controllers, as in
# /proc/PID/cgroup, where its line is "0::/path".
UNIFIED = ""

# It is not there, was removed while it was open, or is the cgroup.procs of a threaded cgroup.
_NOTHING_TO_READ = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.EOPNOTSUPP)


class MountPoint(NamedTuple):
    """One mounted cgroup hierarchy, or a part of one.

    Attributes:
        root: the cgroup that the mount point shows, as a path in the hierarchy.
        point: the mount point.
        controllers: what version 1 has there ("memory", "name=systemd"), or UNIFIED alone.
    """

    root: str
    point: str
    controllers: frozenset[str]

    def directory(self, path: str) -> str | None:
        """Returns where the mount shows a cgroup, or None if it does not.

        Args:
            path: of the cgroup, as /proc/PID/cgroup has it.
        """
        root = self.root.rstrip("/")
        if (".." in path and ".." in path.split("/")) or not (path == root or path.startswith(root + "/")):
            return None  # outside our cgroup namespace, or outside what is mounted
        inner = path.removeprefix(root).strip("/")
        return f"{self.point}/{inner}" if inner else self.point


def mounts(proc: StrPath = PROC) -> list[MountPoint]:
    """Returns the cgroup mounts that this process sees, in the order they were made.

    Args:
        proc: where procfs is; its self/mountinfo is read (proc_pid_mountinfo(5)).
    """
    found = []
    text = os.fsdecode(linux.read_file(os.path.join(proc, "self/mountinfo")))
    for line in text.split("\n"):
        if " - cgroup" not in line:
            continue  # of the few hundred mounts that there may be, a dozen are taken apart
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = {UNIFIED} if kind[0] == "cgroup2" else set(kind[2].split(","))
        found.append(MountPoint(_unescape(fields[3]), _unescape(fields[4]), frozenset(controllers)))
    return found


def memberships(pid: int | None = None, proc: StrPath = PROC) -> dict[str, str]:
    """Returns the cgroup that a process is in, for each controller; empty if it is gone.

    A zombie has left its version 1 cgroups and is shown in the root of each.

    Args:
        pid: the process; None for this one.
        proc: where procfs is.
    """
    try:
        path = os.path.join(proc, "self" if pid is None else str(pid), "cgroup")
        text = os.fsdecode(linux.read_file(path, at_once=True))
    except (FileNotFoundError, ProcessLookupError):
        return {}
    paths = {}
    for line in text.split("\n"):
        _, separator, rest = line.partition(":")
        if not separator:
            continue
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def unified_path(pid: int, proc: StrPath = PROC) -> str | None:
    """Returns the version 2 cgroup of a process, or the one that a zombie died in; None if not known.

    Args:
        pid: the process.
        proc: where procfs is.
    """
    return unified_of(memberships(pid, proc))


def unified_of(paths: Mapping[str, str]) -> str | None:
    """Returns the same as `unified_path`, of what `memberships` has returned."""
    path = paths.get(UNIFIED)
    # A zombie may outlast its cgroup (cgroups(7), /proc/PID/cgroup).
    return None if path is None else path.removesuffix(" (deleted)")


class Hierarchies:
    """The cgroups as this process sees them at one moment.

    Reading the table of mounts is most of the work of finding one, and there are several to find.

    Args:
        proc: where procfs is.
        known: the cgroup mounts, if they have been read a moment ago.

    Attributes:
        mounts: the cgroup mounts, in the order they were made.
        own: the cgroup that this process is in, for each controller.
    """

    def __init__(self, proc: StrPath = PROC, known: Sequence[MountPoint] | None = None) -> None:
        self.mounts = mounts(proc) if known is None else known
        self.own = memberships(proc=proc)
        self._proc = proc

    def directories(self, controller: str, path: str) -> list[str]:
        """Returns every place where a cgroup of that path can be seen, whether it is there or not.

        Args:
            controller: of version 1, or UNIFIED.
            path: of the cgroup in its hierarchy.
        """
        seen = [mount.directory(path) for mount in self.mounts if controller in mount.controllers]
        return [directory for directory in seen if directory is not None]

    def own_directory(self, controller: str) -> str | None:
        """Returns this process's own cgroup in a hierarchy, or None where it cannot be seen."""
        path = self.own.get(controller)
        points = {mount.point for mount in self.mounts}
        for directory in self.directories(controller, path) if path is not None else ():
            if directory in points or os.path.isdir(directory):
                return directory
        return None

    def show_us_below(self, directory: str) -> bool:
        """Returns whether this process is in the cgroup of a directory, or in one below it."""
        return any(
            place == directory or place.startswith(f"{directory}/")
            for controller, path in self.own.items()
            for place in self.directories(controller, path)
        )

    def find(self, pid: int, controller: str) -> str | None:
        """Returns the cgroup of a process in one hierarchy if it is fit to be acted on, else None.

        Not fit is also one that no mount shows, or that a mount seems to show but where the process is
        not listed (hidden by another mount, another namespace's view).

        Args:
            pid: a live process.
            controller: of version 1, or UNIFIED.
        """
        for directory in self.places(controller, memberships(pid, self._proc)):
            if pid in listed(directory):
                return directory
        return None

    def places(self, controller: str, paths: Mapping[str, str]) -> list[str]:
        """Returns where the cgroup of a process in one hierarchy may be seen, if it is fit to be acted on.

        Not fit is the root, and a cgroup that holds this very process or a cgroup that does: what
        is done to it would be done to us.

        Args:
            controller: of version 1, or UNIFIED.
            paths: the process's, as `memberships` has returned them.
        """
        path, mine = paths.get(controller, "/"), self.own.get(controller, "/")
        if path in ("/", mine) or mine.startswith(path + "/"):
            return []
        return self.directories(controller, path)


def listed(cgroup: StrPath | int) -> list[int]:
    """Returns the processes that are in a cgroup itself; none if it is gone or cannot tell.

    A process of a pid namespace that we do not see has no number here and is left out; zombies
    are not listed by the kernel.

    Args:
        cgroup: its directory, or a file descriptor of that.
    """
    if isinstance(cgroup, int):
        text = read("cgroup.procs", dir_fd=cgroup, short_lines=True)
    else:
        text = read(os.path.join(cgroup, "cgroup.procs"), short_lines=True)
    return [pid for pid in map(int, text.split()) if pid > 0]


def read(
    file: StrPath, *, dir_fd: int | None = None, at_once: bool = False, short_lines: bool = False
) -> str:
    """Returns what a file of a cgroup holds; nothing if the file, or its cgroup, is not there.

    Args:
        file: its path.
        dir_fd: a file descriptor of the directory that a relative path begins at.
        at_once: as `linux.read_file` has it; for a file of one value.
        short_lines: as `linux.read_file` has it; for a list of processes.

    Raises:
        OSError: it cannot be read, for want of file descriptors for instance.
    """
    try:
        return os.fsdecode(linux.read_file(file, dir_fd=dir_fd, at_once=at_once, short_lines=short_lines))
    except OSError as error:
        if error.errno not in _NOTHING_TO_READ:
            raise
        return ""


def write(file: StrPath, text: str, *, dir_fd: int | None = None) -> bool:
    """Writes to a file of a cgroup; says whether the file was there to be written.

    Args:
        file: its path.
        text: what to write.
        dir_fd: a file descriptor of the directory that a relative path begins at.

    Raises:
        OSError: the kernel refused.
    """
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError as error:
        if error.errno != errno.ENODEV:  # the cgroup has just been removed
            raise
        return False
    finally:
        os.close(fd)
    return True


def _unescape(text: str) -> str:
    return text if "\\" not in text else re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
