"""Directories that containers with a user namespace may write to, each seen through a mount that maps owners.

A file that belongs to user 0 on the disk belongs to the container's root there, and the other way round. The
mount is where nobody but the container's ids can reach it, until `detach`, or `detach_all` by whoever
comes after a program that has died.
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

# The mount point, in a directory of its own that only root and the container's root may pass.
_NAME: Final = "root"

# What a kernel or filesystem has that cannot map (mount_setattr(2)).
_CANNOT: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def path_for(folder: str) -> str:
    """Returns where the root of a bundle is attached.

    Args:
        folder: the bundle's directory, one of a program's own (`shimpy.core.registry`).
    """
    program, name = folder.split("/")[-2:]
    return f"{_BASE}/{program}.{name}/{_NAME}"


def attach(path: str, root: str, first: int, size: int) -> None:
    """Attaches a directory, without the mounts below it, so that a range of ids owns what is in it.

    No program there gives the rights of its owner, and no file is a device.

    Args:
        path: where, as `path_for` has it.
        root: the directory.
        first: the id that is to own what belongs to user and group 0.
        size: how many ids follow it.

    Raises:
        FailedPreconditionError: this kernel cannot map ids, or not those of this filesystem.
        ShimError: the mount could not be made.
    """
    try:
        with ExitStack() as held:
            ids = f"0:{first}:{size}"
            namespace = idmap.user_namespace(ids, ids)
            held.callback(os.close, namespace)
            directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, directory)
            mount = syscalls.clone_mount(directory)
            held.callback(os.close, mount)
            flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
            syscalls.map_ids(mount, namespace, attributes=flags)
            point = _make_place(path, first)
            held.callback(os.close, point)
            syscalls.attach_mount(mount, point)
    except OSError as error:
        detach(path)
        if error.errno in _CANNOT:
            raise FailedPreconditionError(
                f"read_only: the owners of {root} cannot be mapped to the ids of a user namespace by this "
                f"kernel on this filesystem ({error.strerror}); leave it read-only, or give userns=False"
            ) from error
        raise from_oserror(error, f"read_only: {root} cannot be mounted at {path}") from error


def detach(path: str) -> None:
    """Undoes `attach`, whatever it has come to. Idempotent.

    Args:
        path: as `path_for` has it.
    """
    place = os.path.dirname(path)
    if os.path.lexists(place):
        # What uses it still keeps it, but nobody finds it any more.
        with suppress(OSError):
            syscalls.unmount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        for each in (path, place):
            with suppress(OSError):
                os.rmdir(each)


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
                detach(f"{_BASE}/{name}/{_NAME}")


def _make_place(path: str, group: int) -> int:
    """Makes the directories down to a mount point, and returns a file descriptor of that."""
    with suppress(FileExistsError):
        os.mkdir(_BASE, 0o711)
    base = os.open(_BASE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(base)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EACCES, f"{_BASE} must belong to root and be writable by nobody else")
        os.fchmod(base, 0o711)  # with some umasks it was not yet
        name = os.path.basename(os.path.dirname(path))
        os.mkdir(name, 0o700, dir_fd=base)
        place = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
    finally:
        os.close(base)
    try:
        os.mkdir(_NAME, 0o700, dir_fd=place)
        os.fchown(place, -1, group)
        os.fchmod(place, 0o710)
        return os.open(_NAME, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)
