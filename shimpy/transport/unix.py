"""The listening Unix socket: owner-only, and never stolen from a live server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import cast

from shimpy import linux
from shimpy.errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ShimError,
)

# A socket whose own name is longer than an address may be is bound under this one, and renamed.
_SHORT_NAME = ".shimpy.new"

# Seconds to wait for another shim that makes its socket in the same directory, which takes it a millisecond,
# and at the end, when there is little time left, for one that does so just then.
_LOCK_TIMEOUT = 2.0
_LAST_LOCK_TIMEOUT = 0.1

# Connections that may wait to be accepted.
_BACKLOG = 128

_log = logging.getLogger(__name__)


class UnixSocket:
    """A listening socket and the name that it has.

    Attributes:
        socket: the socket, listening.
        path: its name, absolute.
    """

    def __init__(self, listener: socket.socket, path: str, directory: int, identity: tuple[int, int]) -> None:
        self.socket = listener
        self.path = path
        self._directory = directory
        self._identity = identity

    @property
    def identity(self) -> tuple[int, int]:
        """The device and inode number of its file."""
        return self._identity

    def leave(self) -> None:
        """Leaves the name where it is: another process goes on with the socket. Idempotent."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def remove(self) -> None:
        """Removes the name, if it is still this socket's. Idempotent."""
        if self._directory < 0:
            return
        name = os.path.basename(self.path)
        # With the lock held, a shim that takes over the name has either done so or not yet begun.
        with contextlib.suppress(OSError), _locked(self._directory, _LAST_LOCK_TIMEOUT):
            found = os.lstat(name, dir_fd=self._directory)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(name, dir_fd=self._directory)
        os.close(self._directory)
        self._directory = -1


def listen(path: str) -> UnixSocket:
    """Makes the socket, with mode 0600 from its first instant, and listens on it.

    What a dead server has left there is replaced. Two servers that are started at once cannot both have it:
    they take turns by a lock on the directory, which nothing has to be left behind for and which the kernel
    lets go of when its holder dies.

    Args:
        path: where; may be longer than the kernel's 107 bytes.

    Raises:
        InvalidArgumentError: it is not a path, or names an abstract socket.
        AlreadyExistsError: a living server has it, or it is something else than a socket.
        NotFoundError: there is no such directory.
        PermissionDeniedError: nothing may be made there.
        InternalError: the kernel refused in another way.
    """
    if not path or path.startswith("@") or "\0" in path:
        raise InvalidArgumentError(
            f"{path!r} is not a path for a socket (abstract sockets are refused: any user could connect)"
        )
    path = os.path.abspath(path) if not path.endswith("/") else path
    parent, name = os.path.split(path)
    try:
        if not name:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _locked(directory, _LOCK_TIMEOUT):
                _clear(directory, name, path)
                listener = _bind(directory, name, path)
            found = os.lstat(name, dir_fd=directory)
        except BaseException:
            os.close(directory)
            raise
    except OSError as error:
        raise _explained(path, error) from error
    return UnixSocket(listener, path, directory, (found.st_dev, found.st_ino))


def inherited(path: str, fd: int, identity: tuple[int, int]) -> UnixSocket | None:
    """Returns a listening socket that another process has made, None if its name is not its own any more.

    Args:
        path: its path.
        fd: the socket; it is closed if None is returned.
        identity: see `UnixSocket.identity`.
    """
    path = os.path.abspath(path)
    listener = socket.socket(fileno=fd)
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == identity:
            directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            listener.setblocking(False)
            return UnixSocket(listener, path, directory, identity)
    except OSError as error:
        _log.info("%s is made anew: %s", path, error)
    listener.close()
    return None


def admit(transport: asyncio.BaseTransport) -> int:
    """Returns the process id of who has connected.

    Args:
        transport: of the new connection.

    Raises:
        PermissionError: it is neither root nor the user that this process runs as.
    """
    connection = cast(socket.socket, transport.get_extra_info("socket"))
    client = linux.peer(connection)
    if not client.is_root_or_this_user:
        raise PermissionError(f"process {client.pid} belongs to user {client.uid}")
    return client.pid


@contextlib.contextmanager
def _locked(directory: int, timeout: float) -> Iterator[None]:
    """Holds the lock on a directory, or after some seconds goes on without it.

    Any process that can read the directory can hold the lock indefinitely. Without the lock all that is lost
    is that two shims for one path cannot start at the very same moment.
    """
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                _log.warning("the directory of the socket is locked by another process; going on without")
                break
            time.sleep(0.005)
    try:
        yield
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)


def _clear(directory: int, name: str, path: str) -> None:
    """Removes a dead server's socket; refuses to remove anything else."""
    try:
        # A file descriptor of the socket itself: what is looked at is what is connected to, however long its
        # name.
        there = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        mode = os.fstat(there).st_mode
        if not stat.S_ISSOCK(mode):
            kind = "is a symbolic link" if stat.S_ISLNK(mode) else "is not a socket"
            raise AlreadyExistsError(f"{path} exists and {kind}; remove it or choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            error = probe.connect_ex(f"/proc/self/fd/{there}")
    finally:
        os.close(there)
    if error in {errno.EACCES, errno.EPERM}:
        raise PermissionDeniedError(f"{path}: another user's socket is there")
    # Any other result than a refusal means that a server listens: EAGAIN that it is busy, EPROTOTYPE that it
    # is a socket of another kind.
    if error != errno.ECONNREFUSED:
        raise AlreadyExistsError(f"{path}: a server is listening there already")
    os.unlink(name, dir_fd=directory)


def _bind(directory: int, name: str, path: str) -> socket.socket:
    """Makes the socket in the directory and listens on it."""
    through = f"/proc/self/fd/{directory}/"
    # The name that tools such as ss(8) show is the one it is bound by: as plain as it can be.
    address = next(
        (each for each in (path, through + name) if len(os.fsencode(each)) <= linux.LONGEST_SOCKET_ADDRESS),
        through + _SHORT_NAME,
    )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # The file gets the mode that the socket has, less the umask.
        os.fchmod(listener.fileno(), 0o600)
        if address.endswith(f"/{_SHORT_NAME}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_SHORT_NAME, dir_fd=directory)  # of one who was killed within these lines
        listener.bind(address)
        listener.listen(_BACKLOG)
        if address == through + _SHORT_NAME:
            os.rename(_SHORT_NAME, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        listener.close()
        raise
    return listener


def _explained(path: str, error: OSError) -> ShimError:
    """Returns the error that says what is the matter with a path."""
    directory = os.path.dirname(path)
    match error.errno:
        case errno.ENOENT:
            return NotFoundError(f"{directory}: no such directory for the socket")
        case errno.ENOTDIR:
            return NotFoundError(f"{directory}: not a directory")
        case errno.EISDIR:
            return InvalidArgumentError(f"{path}: is a directory; name a file in it for the socket")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return PermissionDeniedError(f"{directory}: the socket may not be made there ({error.strerror})")
        case _:
            return InternalError(f"{path}: the socket could not be made ({error.strerror or error})")
