"""The socket by which containerd reaches a shim: found by its name, shared by the containers of a group.

The name follows from containerd's address, the namespace and the group, and not from the shim. So a start
may find the socket of a living shim, which takes the container in; of one that is ending, which refuses; or
of one that is dead. Removing and making sockets in the directory is done under a lock (flock(2) on the
directory), and what is removed is exactly what was found to be dead: without that the second of two starts,
having found the same dead socket, would remove the one that the first has just made.
"""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
import socket
import struct
import time

from shimpy.core.digest import sha256_hex
from shimpy.daemon.containerd import wire
from shimpy.daemon.containerd.errors import MalformedError

# Where the sockets are, whatever the directory of containerd's own state is.
DIRECTORY = "/run/containerd/s"

# Bytes of a socket's path that containerd itself allows.
LONGEST_PATH = 106

# The service by which a start asks a living shim to expect one more container.
JOIN_SERVICE = "shimpy.containerd.Group"

JOIN_METHOD = "Join"

# Seconds: for a shim to be connected to; for it to answer, which it does not before it has started itself;
# for another start to finish with the directory.
_CONNECT_TIMEOUT = 0.1
_ANSWER_TIMEOUT = 5.0
_LOCK_TIMEOUT = 2.0
_LOCK_PAUSE = 0.002

# Connections that may wait to be accepted.
_BACKLOG = 128

# ttrpc: length, stream, type and flags of a frame.
_HEADER = struct.Struct(">IIBB")
_REQUEST = 1
_UNAVAILABLE = 14

# Device and inode number of a file, and its last change in nanoseconds since the epoch.
Identity = tuple[int, int, int]


def path_of(address: str, namespace: str, group: str, directory: str = "") -> str:
    """Returns the path of a group's socket.

    Args:
        address: of containerd's gRPC socket.
        namespace: containerd's, of the containers.
        group: what they have in common; an id if it is one alone.
        directory: where it is; empty for the usual place.

    Raises:
        OSError: it would be longer than containerd allows (ENAMETOOLONG).
    """
    # As filepath.Join of Go has it, by which containerd's tools find the same name.
    parts = [part for part in (address, namespace, group) if part]
    joined = posixpath.normpath("/".join(parts))
    if joined.startswith("//"):  # which POSIX keeps and Go does not
        joined = joined[1:]
    path = f"{directory or DIRECTORY}/{sha256_hex(joined)}"
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, f"is longer than {LONGEST_PATH} bytes", path)
    return path


class Place:
    """A listening socket and its name.

    Args:
        listener: the socket.
        path: its name.
        identity: of the file of that name, if it was made earlier.

    Attributes:
        listener: see above.
        path: see above.
        identity: device, inode number and time of the last change of its file; None if that is gone.
    """

    def __init__(self, listener: socket.socket, path: str, identity: Identity | None = None) -> None:
        self.listener = listener
        self.path = path
        self.identity = identity or _identity(path)

    def remove(self, timeout: float = _LOCK_TIMEOUT) -> bool:
        """Removes the name, if it is still this socket's. Idempotent.

        Args:
            timeout: seconds for another start to finish with the directory.

        Returns:
            False if it did not.
        """
        with _Lock(os.path.dirname(self.path), timeout) as locked:
            if locked:
                _remove(self.path, self.identity)
        return locked


def take(path: str, container_id: str) -> Place | None:
    """Makes a group's socket and listens on it, unless a living shim has it.

    Args:
        path: of the socket.
        container_id: whom a living shim is to expect.

    Returns:
        None if a living shim has it and expects the container.

    Raises:
        OSError: the kernel refused.
    """
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    while True:
        with _Lock(directory, _LOCK_TIMEOUT):
            if (listener := _bind(path)) is not None:
                return Place(listener, path)
            found = _identity(path)
        if _join(path, container_id):
            return None
        with _Lock(directory, _LOCK_TIMEOUT):
            _remove(path, found)


def remove_dead(path: str) -> None:
    """Removes a stale socket; does nothing if there is none, or if a server listens on it."""
    found = _identity(path)
    if found is None:
        return
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_CONNECT_TIMEOUT)
        if client.connect_ex(path) == errno.ECONNREFUSED:
            with _Lock(os.path.dirname(path), _LOCK_TIMEOUT):
                _remove(path, found)


def _remove(path: str, found: Identity | None) -> None:
    if found is not None and _identity(path) == found:
        os.unlink(path)


def _identity(path: str) -> Identity | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    # The number of an inode is given out again, perhaps at once.
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _bind(path: str) -> socket.socket | None:
    """Makes the socket, with mode 0600 from its first instant; returns None if there is one."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        # The file gets the mode that the socket has, less the umask.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        listener.listen(_BACKLOG)
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            return None
        raise
    return listener


def _join(path: str, container_id: str) -> bool:
    """Asks the server there to expect a container; returns whether a live one agreed.

    One that does not answer in time is alive all the same, and so is another program's shim, which does not
    know the question. One that closes the connection is dead or about to be.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_CONNECT_TIMEOUT)
        try:
            client.connect(path)
        except (BlockingIOError, TimeoutError):
            return True  # so many wait to be accepted that there is no room
        except OSError:
            return False
        client.settimeout(_ANSWER_TIMEOUT)
        request = wire.write({1: JOIN_SERVICE, 2: JOIN_METHOD, 3: wire.write({1: container_id})})
        try:
            client.sendall(_HEADER.pack(len(request), 1, _REQUEST, 0) + request)
            length = _HEADER.unpack(_read(client, _HEADER.size))[0]
            answer = wire.read(_read(client, length))
            return wire.int32(wire.read(wire.blob(answer, 1)), 1) != _UNAVAILABLE
        except TimeoutError:
            return True
        except OSError:
            return False
        except MalformedError:
            return True


def _read(client: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = client.recv(length - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


class _Lock:
    """Holds the lock on a directory, or after some time goes on without it.

    Any process that can read the directory can hold the lock indefinitely; without it all that is lost is
    that two starts of one group cannot find the same dead socket at the very same moment.
    """

    def __init__(self, directory: str, timeout: float) -> None:
        self._directory = directory
        self._timeout = timeout
        self._fd = -1

    def __enter__(self) -> bool:
        self._fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        end = time.monotonic() + self._timeout
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(_LOCK_PAUSE)
            else:
                return True

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
