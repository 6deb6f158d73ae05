"""The system calls behind mounts, as the C library or the kernel has them."""

from __future__ import annotations

import ctypes
import os
from typing import Final

MS_RDONLY: Final = 1 << 0
MS_NOSUID: Final = 1 << 1
MS_NODEV: Final = 1 << 2
MS_NOEXEC: Final = 1 << 3
MS_SYNCHRONOUS: Final = 1 << 4
MS_REMOUNT: Final = 1 << 5
MS_MANDLOCK: Final = 1 << 6
MS_DIRSYNC: Final = 1 << 7
MS_NOSYMFOLLOW: Final = 1 << 8
MS_NOATIME: Final = 1 << 10
MS_NODIRATIME: Final = 1 << 11
MS_BIND: Final = 1 << 12
MS_REC: Final = 1 << 14
MS_SILENT: Final = 1 << 15
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24
MS_LAZYTIME: Final = 1 << 25

MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

CLONE_FS: Final = 0x200
CLONE_FILES: Final = 0x400
CLONE_NEWNS: Final = 0x20000
CLONE_NEWUSER: Final = 0x10000000

MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
_MOUNT_ATTR_IDMAP: Final = 0x100000
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE_IN_ROOT: Final = 0x10

# The C library of Debian 12 has no names for these. Their numbers are one for every architecture but
# Alpha: those that came after Linux 5.1 were added everywhere at once.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.clone.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)

_STACK: Final = 1 << 16


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: str, target: str, type: str, flags: int, data: str = "") -> None:
    """Attaches a filesystem, or changes what is attached (`man 2 mount`).

    Args:
        source: a device, a directory, or whatever the filesystem takes.
        target: where it is to be seen.
        type: of the filesystem; empty where the flags need none.
        flags: MS_ flags.
        data: the filesystem's own options, joined by commas.

    Raises:
        OSError: as mount(2) has it.
    """
    _check(_libc.mount(*map(os.fsencode, (source, target, type)), flags, os.fsencode(data) or None))


def unmount(target: str, flags: int = 0) -> None:
    """Detaches the topmost mount at a path: umount2(2).

    Raises:
        OSError: as umount2(2) has it.
    """
    _check(_libc.umount2(os.fsencode(target), flags))


def open_in_root(root: int, path: str, flags: int) -> int:
    """Opens a path below a directory, for which absolute paths, `..` and links begin at it: openat2(2).

    Args:
        root: the directory, a file descriptor.
        path: relative to it, or absolute in it.
        flags: as for open(2); O_CLOEXEC is added.

    Raises:
        OSError: as openat2(2) has it; ENOSYS before Linux 5.6.
    """
    # The first forbids the links of procfs too, but does not promise it (openat2(2)).
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    return _syscall(_SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Opens a path below a directory that no link and no `..` may lead out of: openat2(2).

    Args:
        directory: a file descriptor.
        path: relative to it.
        flags: as for open(2); O_CLOEXEC is added.

    Raises:
        OSError: as openat2(2) has it; ELOOP for a link, EXDEV for a way out, ENOSYS before Linux 5.6.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
    return _syscall(_SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))


def clone_mount(fd: int, *, recursive: bool = False) -> int:
    """Returns a copy of a mount, or of a part of one, that is attached nowhere: open_tree(2).

    Args:
        fd: a directory or file in the mount; what is below it is what the copy shows.
        recursive: copy the mounts below it as well.

    Raises:
        OSError: as open_tree(2) has it.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    return _syscall(_SYS_OPEN_TREE, fd, b"", flags)


def map_ids(fd: int, user_namespace: int, *, recursive: bool = False, attributes: int = 0) -> None:
    """Gives a mount that `clone_mount` made the id mappings of a user namespace: mount_setattr(2).

    Args:
        fd: of the mount.
        user_namespace: a file descriptor of it.
        recursive: the mounts below it as well.
        attributes: what else it is given, MOUNT_ATTR_ flags.

    Raises:
        OSError: as mount_setattr(2) has it; EINVAL of a filesystem that cannot, ENOSYS before Linux 5.12.
    """
    changes = _MountAttr(attr_set=_MOUNT_ATTR_IDMAP | attributes, userns_fd=user_namespace)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _syscall(_SYS_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(changes), ctypes.sizeof(changes))


def attach_mount(fd: int, target: int) -> None:
    """Attaches a mount that `clone_mount` made: move_mount(2).

    Args:
        fd: of the mount.
        target: where it is to be seen, a file descriptor.

    Raises:
        OSError: as move_mount(2) has it.
    """
    _syscall(_SYS_MOVE_MOUNT, fd, b"", target, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)


def unshare(flags: int) -> None:
    """Gives the calling thread something of its own that it shared before (unshare(2)).

    Raises:
        OSError: as unshare(2) has it.
    """
    _check(_libc.unshare(ctypes.c_int(flags)))


def start_sleeper(flags: int, seconds: int) -> int:
    """Starts a child process that does nothing, for what it is in: a namespace that it has made.

    It runs sleep(3) of the C library on a stack of its own and nothing of Python, so that neither the
    threads of this process nor its locks matter, as they would to os.fork. It ends without SIGCHLD, and
    only a wait with __WALL or __WCLONE sees it: a wait for any child of this process does not
    take this one. The caller blocks every signal first, since a handler would run in the child too.

    Args:
        flags: CLONE_ flags; the file descriptors are shared, so that none is held open by it.
        seconds: after which it ends by itself.

    Returns:
        Its pid, to be killed and waited for.

    Raises:
        OSError: as clone(2) has it.
    """
    stack = ctypes.create_string_buffer(_STACK)
    top = (ctypes.addressof(stack) + _STACK) & ~15
    function = ctypes.cast(_libc.sleep, ctypes.c_void_p)
    return _check(_libc.clone(function, top, flags | CLONE_FILES, seconds))


def _syscall(number: int, *arguments: object) -> int:
    # A C int would leave the upper half of the register to chance.
    wide = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    return _check(_libc.syscall(ctypes.c_long(number), *wide))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
