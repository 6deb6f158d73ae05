"""Begins a fork server where there is none; it will be there for the next start."""

from __future__ import annotations

import os
import time

from shimpy.daemon.containerd import fork_place

# The directory may hold nothing that others could have made.
_MODE = 0o700

# Seconds until a server is begun again after one that ended before it listened.
_BACKOFF = 60.0


def begin_server() -> None:
    """Begins a server, unless there is one, or another start is doing that, or the last one failed just now.

    Whatever is the matter with it, the start is not.
    """
    directory = fork_place.directory()
    if not directory or os.geteuid() != 0:
        return
    try:
        _begin(directory, fork_place.name())
    except (OSError, ImportError):
        return


def _begin(directory: str, name: str) -> None:
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
        # One that listens makes this empty again.
        if os.fstat(lock).st_size:
            if 0 <= time.time() - os.fstat(lock).st_mtime < _BACKOFF:
                return
            os.ftruncate(lock, 0)
        os.write(lock, b"begun\n")
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
