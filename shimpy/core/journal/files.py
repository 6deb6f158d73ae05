"""Where journals are: a directory for each socket, named after it, which a shim that lives has locked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from shimpy.core import tempdirs
from shimpy.core.digest import sha256_hex
from shimpy.errors import AlreadyExistsError

JOURNAL: Final = "journal"
# Locked by a keeper for as long as it lives: it starts another shim when one dies.
KEEPER: Final = "keeper"

# Longer than the names of `tempdirs`, whose clean-up leaves these alone.
_DIGITS: Final = 32
_NAME: Final = re.compile(f"[0-9a-f]{{{_DIGITS}}}")


class JournalDirectory:
    """The directory of one socket's journal, with mode 0700 in a directory of our user's alone.

    Args:
        name: of the directory, as `of_socket` has it.

    Attributes:
        name: see above.
        path: its path.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = os.path.join(tempdirs.base(), name)
        self._lock = -1

    @classmethod
    def of_socket(cls, path: str) -> JournalDirectory:
        """Returns the directory for the journal of a shim that listens at a path, whether it is there or not.

        Args:
            path: of the socket; by whatever links it is named, it stands for the same directory and name.
        """
        parent, name = os.path.split(os.path.abspath(path))
        place = os.path.join(os.path.realpath(parent), name)
        return cls(sha256_hex(place)[:_DIGITS])

    @property
    def journal(self) -> str:
        """The path of the journal in it."""
        return os.path.join(self.path, JOURNAL)

    def make(self) -> None:
        """Makes it, unless it is there.

        Raises:
            OSError: there is no place for it that is ours alone.
        """
        os.close(tempdirs.open_base(make=True))
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o700)

    def lock(self) -> None:
        """Locks it for as long as this process lives, or until `unlock`.

        Raises:
            AlreadyExistsError: a shim that lives has it.
            OSError: it is not there, or not ours.
        """
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise AlreadyExistsError(f"{self.path}: another shim is serving this socket") from None
        self._lock = fd

    def unlock(self) -> None:
        """Lets go of it. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def is_live(self) -> bool:
        """Returns whether a shim that lives has locked it."""
        try:
            fd = self._open()
        except OSError:
            return False
        return _is_locked(fd)

    def is_kept(self) -> bool:
        """Returns whether a keeper is there that will start another shim when the one that has it dies."""
        try:
            fd = os.open(os.path.join(self.path, KEEPER), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        return _is_locked(fd)

    def read(self) -> bytes:
        """Returns what its journal holds; nothing if there is none, or it is not a file of our user's alone.

        Raises:
            OSError: it may not be read.
        """
        try:
            os.close(self._open())
            fd = os.open(self.journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
                return b""
            return file.read()

    def remove(self) -> None:
        """Removes it with what is in it. Idempotent; of one that lives, its shim alone may do so."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path):
                os.unlink(os.path.join(self.path, name))
            os.rmdir(self.path)

    def _open(self) -> int:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            os.close(fd)
            raise PermissionError(f"{self.path} must belong to you and have mode 0700")
        return fd


def journal_directories() -> Iterator[JournalDirectory]:
    """Yields the directories of all journals of our user."""
    with contextlib.suppress(OSError):
        os.close(tempdirs.open_base(make=False))
        for name in sorted(os.listdir(tempdirs.base())):
            if _NAME.fullmatch(name):
                yield JournalDirectory(name)


def _is_locked(fd: int) -> bool:
    """Returns whether another file description holds the lock; closes the file descriptor."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
