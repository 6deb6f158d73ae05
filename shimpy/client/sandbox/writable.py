"""What a sandbox may write to, such as its root: whether what it leaves there is out of others' reach.

The owners of its files are mapped: what root of the container makes belongs on the disk to root of this
machine, a set-user-ID program too. So nobody else may get there. A file that has a second name elsewhere
(link(2)) is not found, since that would take a look at each.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from shimpy.core.rootfs.unmount import unescape
from shimpy.errors import InvalidArgumentError

_REMEDY: Final = "move it below a directory of mode 0700 that belongs to root"


class _MountPoint(NamedTuple):
    """A line of mountinfo, as far as it is needed (proc_pid_mountinfo(5))."""

    id: str
    device: str
    shows: str
    path: str
    options: list[str]


def check_closed(root: str, *, option: str = "read_only", otherwise: str = "leave it read-only") -> None:
    """Refuses a root that others than this machine's root may get to, by whatever path.

    Args:
        root: the absolute path of its directory; or of what else a container is to write to.
        option: what the error names.
        otherwise: what else can be done about it.

    Raises:
        InvalidArgumentError: the path by which it can be reached, and what to do about it.
    """
    path = os.path.realpath(root)
    if not _is_closed(path):
        raise InvalidArgumentError(
            f"{option}: {root} can be reached by others than root, for whom a program that the container "
            f"makes there and marks set-user-ID would run as root of this machine; {_REMEDY}, or {otherwise}"
        )
    mounts = _mounts()
    own = _mount_of(path, mounts)
    shown = os.path.normpath(os.path.join(own.shows, os.path.relpath(path, own.path)))
    for mount in mounts:
        if mount.device == own.device and "nosuid" not in mount.options:
            if _is_at_or_above(mount.shows, shown):
                found = os.path.normpath(os.path.join(mount.path, os.path.relpath(shown, mount.shows)))
            elif _is_at_or_above(shown, mount.shows):
                found = mount.path
            else:
                continue
            if not _is_closed(found):
                raise InvalidArgumentError(
                    f"{option}: {root} can be reached by others than root at {found} too, where it is "
                    f"mounted; unmount that, or {otherwise}"
                )


def _is_closed(path: str) -> bool:
    """Returns whether one of the directories above a path is for root alone."""
    while path != "/":
        path = os.path.dirname(path)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):  # another mount covers it: nobody gets there
            return True
        except OSError:  # a filesystem of another machine's, which may not refuse others
            continue
        # Access control lists are within the bits of the group (acl(5)).
        if status.st_uid == 0 and not status.st_mode & 0o077:
            return True
    return False


def _mounts() -> list[_MountPoint]:
    with open("/proc/thread-self/mountinfo", "rb") as file:
        lines = [line.split(b" ", 6) for line in file]
    return [
        _MountPoint(
            mount_id.decode(), device.decode(), unescape(shows), unescape(path), options.decode().split(",")
        )
        for mount_id, _, device, shows, path, options, _ in lines
    ]


def _mount_of(path: str, mounts: list[_MountPoint]) -> _MountPoint:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            fields = dict(line.split(":\t") for line in file)
    finally:
        os.close(fd)
    return next(mount for mount in mounts if mount.id == fields["mnt_id"].strip())


def _is_at_or_above(one: str, other: str) -> bool:
    return one == other or other.startswith(f"{one.rstrip('/')}/")
