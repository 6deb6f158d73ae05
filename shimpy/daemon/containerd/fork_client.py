"""Has a fork server do a `start`, and begins that server where there is none.

A start that is handed over costs this process nothing but the interpreter. Whatever is the matter with the
server, the start is not: then this process does it itself, which is only slower.
"""

from __future__ import annotations

import os
import select
import sys
import time

from shimpy.daemon.containerd import fork_place
from shimpy.daemon.helper import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket

# The directory may hold nothing that others could have made.
_MODE = 0o700


def hand_over() -> int | None:
    """Has the server do what this process was asked to do, with its file descriptors 0, 1 and 2.

    Returns:
        The exit status; None if this process is to do it itself: then nothing has been done.
    """
    directory = fork_place.directory()
    if not directory or os.geteuid() != 0:
        return None
    try:
        name = fork_place.name()
        connection = _connect(directory, name)
        if connection is None:
            _begin(directory, name)
            return None
    except (OSError, ImportError):
        return None
    try:
        return _ask(connection)
    finally:
        connection.close()


def _connect(directory: str, name: str) -> _socket.socket | None:
    for each in (name, fork_place.ACTIVATED):
        try:
            connection = packets.connect(f"{directory}/{each}")
        except OSError:
            continue
        if packets.peer(connection).uid == os.geteuid():
            return connection
        connection.close()
    return None


def _ask(connection: _socket.socket) -> int | None:
    request = fork_place.encode(fork_place.program(), sys.orig_argv, sys.argv)
    if len(request) > fork_place.LONGEST_REQUEST:
        return None
    try:
        packets.send(connection, request, wait=False)
        if _receive(connection, fork_place.ANSWER_TIMEOUT) != fork_place.READY:
            return None
        bundle = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # Not before: what waits to be received is open, and containerd waits for its end.
        packets.send(connection, fork_place.GO, [0, 1, 2, bundle], wait=False)
    except OSError:
        return None
    # From here on it may have been done.
    try:
        answer = _receive(connection, fork_place.START_TIMEOUT)
    except OSError:
        answer = b""
    if not answer:
        os.write(2, b"the shim ended before it was ready, or did not become ready\n")
        return 1
    return int(answer)


def _receive(connection: _socket.socket, timeout: float) -> bytes:
    """Returns the next message; nothing, if there is none in time or the other end has gone."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    end = time.monotonic() + timeout
    while not poll.poll(max(0, end - time.monotonic()) * 1000):
        if time.monotonic() >= end:
            return b""
    packet = packets.receive(connection, fds=0)
    packet.close()
    return packet.data


def _begin(directory: str, name: str) -> None:
    """Begins a server, unless another start is doing that; it will be there for the next."""
    import fcntl

    from shimpy.daemon.helper import begin

    os.makedirs(directory, _MODE, exist_ok=True)
    status = os.lstat(directory)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return
    # A server holds the lock from here to its death, so that there is one, and no name is taken from it.
    path = f"{directory}/{name}"
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        _spawn(
            begin.command("shimpy.daemon.containerd.fork_server", path, begin.room_for_a_title()),
            directory,
            lock,
        )
    finally:
        os.close(lock)


def _spawn(command: list[str], directory: str, lock: int) -> None:
    """Starts the server as nobody's child, with the lock as its file descriptor 3."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    log = _log(f"{directory}/log")
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    try:
        # What this process starts outlives it anyway, and it ends in a moment: then init has it.
        os.posix_spawn(
            command[0], command, environment, setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, null, 1),
                (os.POSIX_SPAWN_DUP2, null if log is None else log, 2),
                (os.POSIX_SPAWN_DUP2, lock, 3),
            ],
        )  # fmt: skip
    finally:
        os.close(null)
        if log is not None:
            os.close(log)


def _log(name: str) -> int | None:
    """Returns the servers' log: a file of their own, begun anew when it has grown."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        if os.path.lexists(name) and os.lstat(name).st_size > 1 << 20:
            os.unlink(name)
        return os.open(name, flags, 0o600)
    except OSError:
        return None
