"""Private directories and files for what lives as long as one call: sockets, pid files, logs.

No container can reach them, whatever of the machine's directories it shares. What has no name is gone with
its last file descriptor, also when the process is killed; what has one is removed by the next shim that
starts.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Final, Self

_libc: Final = ctypes.CDLL(None, use_errno=True)

# The same on every architecture but Alpha; only newer C libraries have functions for them.
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432

_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1
_MOUNT_ATTRIBUTES: Final = 2 | 4 | 8  # nosuid, nodev, noexec

# Bytes that the name of a directory is made of, as hexadecimal digits.
_RANDOM: Final = 8

_MFD_NOEXEC_SEAL: Final = 8  # since Linux 6.3; in the os module since Python 3.14 only


class PrivateDirectory:
    """A directory that only this process can reach, and those it gives `path` to, until it is closed.

    Where that is allowed (CAP_SYS_ADMIN, Linux 5.2) it is a tmpfs of its own that is mounted nowhere, so
    that others cannot fill it either. Elsewhere it is in a directory that belongs to us alone, see `base`.

    Args:
        named: it is to be in `base` and have a path there, for a program that asks the kernel where it is.

    Attributes:
        fd: a file descriptor of it.
        path: its path, short enough for the address of a socket (unix(7)), as long as this process lives.

    Raises:
        OSError: there is no room, no file descriptor left, or no place that is ours alone.
    """

    def __init__(self, *, named: bool = False) -> None:
        self._stack = ExitStack()
        if named:
            self.fd = self._in_base()
            self.path = os.readlink(f"/proc/self/fd/{self.fd}")
            return
        try:
            self.fd = _detached_tmpfs()
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENODEV):
                raise
            self.fd = self._in_base()
        else:
            self._stack.callback(os.close, self.fd)
        self.path = path_of(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes it with the files in it. Idempotent."""
        self._stack.close()

    def read(self, name: str, limit: int) -> bytes:
        """Returns the beginning of a regular file in it, and waits for nothing.

        Args:
            name: the file's name.
            limit: the most that is read, in bytes.

        Raises:
            OSError: it is not there, or not a regular file.
        """
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=self.fd)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            return os.read(fd, limit)
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        """Removes a file in it.

        Raises:
            OSError: it is not there.
        """
        os.unlink(name, dir_fd=self.fd)

    def _in_base(self) -> int:
        with ExitStack() as stack:
            parent = _open_private(base(), make=True)
            stack.callback(os.close, parent)
            while True:
                name = os.urandom(_RANDOM).hex()
                os.mkdir(name, 0o700, dir_fd=parent)
                with suppress(FileNotFoundError):
                    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                    stack.callback(os.close, fd)
                    # A start of another shim may have taken it for a dead one's before it was locked.
                    if _lock(fd) and os.fstat(fd).st_nlink:
                        stack.callback(_remove, parent, name, fd)
                        self._stack = stack.pop_all()
                        return fd


class DirectoryPool:
    """A private directory that one call after the other uses; each has one for itself while it lasts.

    To unmount one takes until every processor has passed a point of rest (synchronize_rcu in the kernel):
    milliseconds on a busy machine, in which this process does nothing else.
    """

    def __init__(self) -> None:
        self._idle: PrivateDirectory | None = None
        self._closed = False

    def take(self) -> PrivateDirectory:
        """Returns a directory in which there is nothing, to be given back or closed.

        Raises:
            OSError: as for `PrivateDirectory`.
        """
        directory, self._idle = self._idle, None
        return directory or PrivateDirectory()

    def give_back(self, directory: PrivateDirectory) -> None:
        """Takes a directory in which there is nothing any more, and nobody is about to write."""
        if self._idle is None and not self._closed:
            self._idle = directory
        else:
            directory.close()

    def open(self) -> None:
        """Keeps a directory from now on, also after `close`."""
        self._closed = False

    def close(self) -> None:
        """Keeps none any more. Idempotent."""
        self._closed = True
        if self._idle is not None:
            self._idle.close()
            self._idle = None


def make_file(name: str) -> int:
    """Makes a file in memory that has no name, and returns its file descriptor (memfd_create(2)).

    Args:
        name: what /proc shows of it.

    Raises:
        OSError: no file descriptor or memory is left.
    """
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, os.MFD_CLOEXEC)


def path_of(fd: int) -> str:
    """Returns a path by which a child process of the same user can open what one of our file descriptors is.

    It need not inherit the file descriptor, so neither a wrapper that closes what it does not know can lose
    it, nor a container get it.
    """
    return f"/proc/{os.getpid()}/fd/{fd}"


def base() -> str:
    """Returns the directory for our directories where they cannot be mounts of their own."""
    if os.geteuid() == 0:
        return "/run/shimpy"
    if runtime_dir := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime_dir, "shimpy")
    import tempfile

    return os.path.join(tempfile.gettempdir(), f"shimpy-{os.geteuid()}")


def open_common(name: str) -> int:
    """Opens a file, made if need be, that all processes of our user have in common, for locks; it stays.

    Args:
        name: the file's name in the directory for our directories.

    Raises:
        OSError: there is no place for it that is ours alone.
    """
    parent = _open_private(base(), make=True)
    try:
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=parent)
    finally:
        os.close(parent)


def open_base(*, make: bool) -> int:
    """Opens the directory for our directories.

    Args:
        make: make it, if it is not there.

    Raises:
        OSError: it is not there, or not ours alone.
    """
    return _open_private(base(), make=make)


def remove_abandoned() -> None:
    """Removes the directories of processes that were killed; those of others are locked.

    Journals stay, which are there for when their shim has died.
    """
    with suppress(OSError), ExitStack() as stack:
        parent = _open_private(base(), make=False)
        stack.callback(os.close, parent)
        for name in os.listdir(parent):
            if len(name) != 2 * _RANDOM:
                continue
            with suppress(OSError), ExitStack() as each:
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                each.callback(os.close, fd)
                if _lock(fd):
                    _remove(parent, name, fd)


def _detached_tmpfs() -> int:
    context = _syscall(_FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC)
    try:
        _syscall(_FSCONFIG, context, _FSCONFIG_SET_STRING, b"mode", b"0700", 0)
        _syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, _MOUNT_ATTRIBUTES)
    finally:
        os.close(context)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _open_private(path: str, *, make: bool) -> int:
    """Opens a directory that has to be ours alone; in one like /tmp another user may have made it first."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        fd = os.open(path, flags)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(fd)
        raise PermissionError(errno.EACCES, f"{path} must belong to you and have mode 0700")
    return fd


def _lock(fd: int) -> bool:
    """Locks a directory for as long as the file descriptor is open, in whatever way that ends (flock(2))."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(parent: int, name: str, fd: int) -> None:
    with suppress(OSError):
        for each in os.listdir(fd):
            os.unlink(each, dir_fd=fd)
        os.rmdir(name, dir_fd=parent)
