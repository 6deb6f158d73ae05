"""Mounts at and below a container's root filesystem: all of them, or none."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from shimpy import errors
from shimpy.core.rootfs import idmap, overlay, syscalls
from shimpy.core.rootfs.loop import loop_device
from shimpy.core.rootfs.options import MountOptions, parse_options, refuse_internal
from shimpy.core.rootfs.syscalls import MNT_DETACH, MS_BIND, MS_REC, MS_REMOUNT, MS_SILENT

_log = logging.getLogger(__name__)

# The flags that each mount has of its own, beside those of its filesystem (mount(2)).
_PER_MOUNT: Final = (
    syscalls.MS_RDONLY
    | syscalls.MS_NOSUID
    | syscalls.MS_NODEV
    | syscalls.MS_NOEXEC
    | syscalls.MS_NOSYMFOLLOW
    | syscalls.MS_NOATIME
    | syscalls.MS_NODIRATIME
    | syscalls.MS_RELATIME
    | syscalls.MS_STRICTATIME
)
# What statvfs(3) calls by another number; the rest of the flags has the same there.
_ST_RELATIME: Final = 1 << 12
_ST_NOSYMFOLLOW: Final = 1 << 13
_SAME: Final = _PER_MOUNT & ~(syscalls.MS_RELATIME | syscalls.MS_STRICTATIME | syscalls.MS_NOSYMFOLLOW)
# What is wrong with what was asked for; mount(2), overlayfs and the like mean many things by EINVAL.
_BY_ERRNO: Final[dict[int, type[errors.ShimError]]] = {
    errno.EBUSY: errors.FailedPreconditionError,
    **dict.fromkeys(
        (errno.EINVAL, errno.ENODEV, errno.ENOTBLK, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO),
        errors.InvalidArgumentError,
    ),
}
_HELPERS: Final = {"fuse": "mount.fuse", "fuse3": "mount.fuse3"}


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a root filesystem, as containerd describes it (its api/types/mount.proto).

    Attributes:
        type: of the filesystem, such as `overlay` or `bind`; `fuse.NAME` and `fuse3.NAME` have a program
            mount it.
        source: a device, file or directory, or whatever the filesystem takes.
        target: where below the root filesystem; empty for the root filesystem itself.
        options: as in /etc/fstab, see `parse_options`.
    """

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


class Rootfs:
    """The mounts that are being made at and below one directory.

    Each call may block for as long as the kernel takes, a device or a server of files does: call them
    with `run_blocking`. After the last one the mounts are kept or undone as one.

    Args:
        path: the directory, which is there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._tops: list[int] = []  # a file descriptor of each mount, so that exactly these are undone

    def mount(self, mount: Mount) -> None:
        """Makes one mount; what was made of it is undone together with the others if it fails.

        Raises:
            InvalidArgumentError: the options are wrong, or the kernel does not take them.
            NotFoundError: there is no such source, target or device.
            FailedPreconditionError: the source or the target is in use.
            ShimError: the kernel refused for another reason.
        """
        with _described(mount):
            options = parse_options(mount.options)
            with contextlib.ExitStack() as held:
                user_namespace = None
                if options.uid_map:
                    user_namespace = idmap.user_namespace(options.uid_map, options.gid_map)
                    held.callback(os.close, user_namespace)
                source = mount.source
                if options.loop:
                    read_only = bool(options.flags & syscalls.MS_RDONLY)
                    device = loop_device(source, read_only=read_only, direct_io=options.direct_io)
                    source = held.enter_context(device)
                self._mount(Mount(mount.type, source, mount.target), options, user_namespace)

    def helper(self, mount: Mount) -> list[str] | None:
        """Returns the command that makes a mount, or None for one that is the kernel's.

        Raises:
            InvalidArgumentError: an option is for containerd alone.
            NotFoundError: there is no such target.
        """
        family, has_name, name = mount.type.partition(".")
        if family not in _HELPERS or not has_name:
            return None
        for option in mount.options:
            refuse_internal(option)
        with _described(mount):
            target = self._open(mount.target)
        options = [word for option in mount.options for word in ("-o", option)]
        try:
            return [_HELPERS[family], mount.source, _path_of(target), *options, "-t", name]
        finally:
            os.close(target)

    def helped(self, mount: Mount) -> None:
        """Takes up what a helper's command has mounted, to be undone with the others."""
        with _described(mount):
            self._tops.append(self._open(mount.target))

    def keep(self) -> None:
        """Leaves the mounts as they are, to be unmounted some day by `unmount_all`."""
        while self._tops:
            os.close(self._tops.pop())

    def undo(self) -> None:
        """Unmounts what was mounted, the last first; idempotent.

        It disappears at once, though a filesystem that is in use ends with that use.
        """
        while self._tops:
            top = self._tops.pop()
            try:
                syscalls.unmount(f"/proc/self/fd/{top}", MNT_DETACH)
            except OSError as error:
                _log.warning("cannot undo a mount below %s: %s", self.path, error)
            finally:
                os.close(top)

    def _mount(self, mount: Mount, options: MountOptions, user_namespace: int | None) -> None:
        flags, data = options.flags, options.data
        below = self._open(mount.target)
        try:
            target = f"/proc/self/fd/{below}"
            if flags & MS_REMOUNT:
                _remount(below, mount, options)
            elif flags & MS_BIND:
                syscalls.mount(mount.source, target, "", flags & (MS_BIND | MS_REC | MS_SILENT))
                _remount(self._took(mount), mount, options)
            elif mount.type != "overlay":
                syscalls.mount(mount.source, target, mount.type, flags, overlay.joined(data))
                self._took(mount)
            elif user_namespace is None:
                overlay.mount_overlay(mount.source, target, flags, data)
                self._took(mount)
            else:
                self._attach(
                    overlay.mapped_overlay(mount.source, _path_of(below), flags, data, user_namespace), below
                )
                user_namespace = None
            if user_namespace is not None:
                self._map(below, user_namespace, recursive=bool(flags & MS_REC))
            if options.propagation:
                top = self._tops[-1] if not flags & MS_REMOUNT else below
                syscalls.mount("", f"/proc/self/fd/{top}", "", options.propagation)
        finally:
            os.close(below)

    def _took(self, mount: Mount) -> int:
        """Returns a file descriptor of what has just been mounted, which is noted."""
        self._tops.append(self._open(mount.target))
        return self._tops[-1]

    def _attach(self, fd: int, target: int) -> None:
        try:
            syscalls.attach_mount(fd, target)
        except BaseException:
            os.close(fd)
            raise
        self._tops.append(fd)

    def _map(self, target: int, user_namespace: int, *, recursive: bool) -> None:
        """Puts a mapped copy of the last mount in its place: one that is seen already cannot be mapped."""
        copy = syscalls.clone_mount(self._tops[-1], recursive=recursive)
        try:
            syscalls.map_ids(copy, user_namespace, recursive=recursive)
            syscalls.unmount(f"/proc/self/fd/{self._tops[-1]}", MNT_DETACH)
        except BaseException:
            os.close(copy)
            raise
        os.close(self._tops.pop())
        self._attach(copy, target)

    def _open(self, target: str) -> int:
        """Returns a file descriptor of what is mounted topmost at a path below the root filesystem.

        No link or `..` in it leads out: a layer's content is not to be trusted.
        """
        root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not target.strip("/"):
            return root
        try:
            return syscalls.open_in_root(root, target, os.O_PATH)
        finally:
            os.close(root)


def mount_all(path: str, mounts: Sequence[Mount]) -> None:
    """Makes mounts at and below a directory in order: all of them, or none. Not those of a helper.

    Raises:
        ShimError: as for `Rootfs.mount`.
    """
    rootfs = Rootfs(path)
    try:
        for mount in mounts:
            rootfs.mount(mount)
    except BaseException:
        rootfs.undo()
        raise
    rootfs.keep()


def _remount(fd: int, mount: Mount, options: MountOptions) -> None:
    """Gives a mount its flags: a bind mount begins with those of its source, whatever was asked for.

    Flags that are not mentioned stay: to make a mount read-only is not to allow devices on it.
    """
    target = f"/proc/self/fd/{fd}"
    if not options.flags & MS_BIND:
        syscalls.mount(mount.source, target, mount.type, options.flags, overlay.joined(options.data))
    elif (options.flags | options.cleared) & _PER_MOUNT:
        told = os.fstatvfs(fd).f_flag
        there = (
            told & _SAME
            | (syscalls.MS_RELATIME if told & _ST_RELATIME else 0)
            | (syscalls.MS_NOSYMFOLLOW if told & _ST_NOSYMFOLLOW else 0)
        )
        wanted = there & ~options.cleared | options.flags & ~MS_REC
        syscalls.mount("", target, "", wanted | MS_REMOUNT | MS_BIND)


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


@contextlib.contextmanager
def _described(mount: Mount) -> Iterator[None]:
    """Raises the kernel's errors as shimpy's."""
    try:
        yield
    except OSError as error:
        what = f"cannot mount {mount.type or 'a filesystem'} {mount.source!r} at {mount.target or '/'!r}"
        default = _BY_ERRNO.get(error.errno or 0, errors.InternalError)
        raise errors.from_oserror(error, what, default=default) from error
