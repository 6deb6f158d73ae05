"""What containers with a user namespace may write to of the host's, seen through mounts that map owners.

A file that belongs to user 0 on the disk belongs to the container's root there, and the other way round. The
mounts of a bundle are where nobody but the container's ids can reach them, until `detach`, or `detach_all` by
whoever comes after a program that has died.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, suppress
from typing import Final

from shimpy.core.rootfs import idmap, syscalls
from shimpy.core.rootfs.unmount import unmount_all
from shimpy.errors import FailedPreconditionError, from_oserror

_BASE: Final = "/run/shimpy-roots"

# The mount point of a root filesystem.
_ROOT: Final = "root"

# What a kernel or filesystem has that cannot map (mount_setattr(2)).
_CANNOT: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def path_for(folder: str, name: str = _ROOT) -> str:
    """Returns where the root of a bundle is attached, or another directory or file.

    Args:
        folder: the bundle's directory, one of a program's own (`shimpy.core.registry`).
        name: which of the bundle's; the root's by default.
    """
    return f"{_place_for(folder)}/{name}"


def attach(path: str, root: str, first: int, size: int, *, option: str = "read_only") -> None:
    """Attaches a directory, without the mounts below it, or a file, so that a range of ids owns it.

    No program there gives the rights of its owner, and no file is a device.

    Args:
        path: where, as `path_for` has it.
        root: the directory or file.
        first: the id that is to own what belongs to user and group 0.
        size: how many ids follow it.
        option: what the errors name.

    Raises:
        FailedPreconditionError: this kernel cannot map ids, or not those of this filesystem.
        ShimError: the mount could not be made.
    """
    try:
        with ExitStack() as held:
            ids = f"0:{first}:{size}"
            namespace = idmap.user_namespace(ids, ids)
            held.callback(os.close, namespace)
            shown = os.open(root, os.O_PATH | os.O_CLOEXEC)
            held.callback(os.close, shown)
            mount = syscalls.clone_mount(shown)
            held.callback(os.close, mount)
            flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
            syscalls.map_ids(mount, namespace, attributes=flags)
            point = _make_point(path, first, directory=stat.S_ISDIR(os.fstat(shown).st_mode))
            held.callback(os.close, point)
            syscalls.attach_mount(mount, point)
    except OSError as error:
        if error.errno in _CANNOT:
            raise FailedPreconditionError(
                f"{option}: the owners of {root} cannot be mapped to the ids of a user namespace by this "
                f"kernel on this filesystem ({error.strerror}); leave it read-only, or give userns=False"
            ) from error
        raise from_oserror(error, f"{option}: {root} cannot be mounted at {path}") from error


def detach(folder: str) -> None:
    """Undoes each `attach` for a bundle, whatever it has come to. Idempotent.

    Args:
        folder: as for `path_for`.
    """
    _remove(_place_for(folder))


def detach_all(program: str) -> None:
    """Undoes what a program has attached that is dead.

    Args:
        program: the name of its directory.

    Raises:
        ShimError: the kernel refused.
    """
    with suppress(FileNotFoundError):
        for name in os.listdir(_BASE):
            if name.partition(".")[0] == program:
                unmount_all(f"{_BASE}/{name}")
                _remove(f"{_BASE}/{name}")


def _place_for(folder: str) -> str:
    program, name = folder.split("/")[-2:]
    return f"{_BASE}/{program}.{name}"


def _remove(place: str) -> None:
    if not os.path.lexists(place):
        return
    for name in os.listdir(place):
        path = f"{place}/{name}"
        # What uses it still keeps it, but nobody finds it any more.
        with suppress(OSError):
            syscalls.unmount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        with suppress(OSError):
            (os.rmdir if os.path.isdir(path) else os.unlink)(path)
    with suppress(OSError):
        os.rmdir(place)


def _make_point(path: str, group: int, *, directory: bool) -> int:
    """Makes a mount point and the directories above it, and returns a file descriptor of it."""
    with suppress(FileExistsError):
        os.mkdir(_BASE, 0o711)
    base = os.open(_BASE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(base)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EACCES, f"{_BASE} must belong to root and be writable by nobody else")
        os.fchmod(base, 0o711)  # with some umasks it was not yet
        name = os.path.basename(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=base)
        place = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
    finally:
        os.close(base)
    try:
        point = os.path.basename(path)
        if directory:
            os.mkdir(point, 0o700, dir_fd=place)
        else:
            os.mknod(point, 0o600, dir_fd=place)
        os.fchown(place, -1, group)  # only root and the container's root may pass
        os.fchmod(place, 0o710)
        return os.open(point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)
