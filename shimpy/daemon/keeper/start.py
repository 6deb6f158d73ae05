"""How a process becomes the keeper that `python -m shimpy --supervise` is to be."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from shimpy import linux
from shimpy.core.journal.files import KEEPER, JournalDirectory
from shimpy.daemon.helper import begin
from shimpy.errors import AlreadyExistsError

if TYPE_CHECKING:
    from collections.abc import Sequence


def become_keeper(path: str, style: str, arguments: Sequence[str]) -> NoReturn:
    """Becomes the keeper of a shim.

    Args:
        path: of the shim's socket.
        style: the format of the log, `text` or `json`.
        arguments: of `python -m shimpy`, for the shim.

    Raises:
        AlreadyExistsError: another keeper is there for that socket.
        OSError: there is no place for what it needs.
    """
    directory = JournalDirectory.of_socket(path)
    lock = -1
    # One that is just ending has removed the file, or the directory, under us.
    while lock < 0 or not os.fstat(lock).st_nlink:
        directory.make()
        with contextlib.suppress(FileNotFoundError):
            lock = _lock(os.path.join(directory.path, KEEPER), path)
    # Both outlive execve(2).
    os.set_inheritable(lock, True)
    linux.set_child_subreaper(True)
    shim = [*_interpreter(), "-m", "shimpy", *arguments]
    command = begin.command("shimpy.daemon.keeper.main", directory.path, str(lock), style, *shim)
    os.execv(command[0], command)


def _lock(file: str, path: str) -> int:
    """Opens a file and locks it."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AlreadyExistsError(f"{path}: another keeper is there, with a shim that serves it") from None
    return fd


def _interpreter() -> list[str]:
    """Returns the interpreter with the options that it was started with.

    By its own path: if that is a symbolic link, the next shim is run by what it leads to then.
    """
    main = sys.modules["__main__"].__spec__
    if main is not None and main.name == "shimpy.__main__":
        options = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
        return [sys.executable, *options[: options.index("-m")]]
    # As a command: the working directory says nothing of what is imported.
    return [sys.executable, "-P"]
