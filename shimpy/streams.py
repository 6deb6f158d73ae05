"""The three paths of a request that stand for what a process reads and writes: found and opened."""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Final, Literal, NoReturn, Self

from .errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ShimError,
)
from .fifo import reopen

Field = Literal["stdin", "stdout", "stderr"]

# A message goes into the headers of a reply, and a path may be as long as a request.
_LONGEST_PATH: Final = 256

_ERRORS: Final[dict[int, type[ShimError]]] = {
    errno.ENOENT: NotFoundError,
    errno.ENOTDIR: NotFoundError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.EROFS: PermissionDeniedError,
    errno.EMFILE: ResourceExhaustedError,
    errno.ENFILE: ResourceExhaustedError,
    errno.ENOMEM: ResourceExhaustedError,
}

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFLNK: "a symbolic link",
}


class Stream:
    """A FIFO, regular file or character device that was found, and is opened for use afterwards.

    To find it touches nothing: no device is opened, no FIFO's other side sees anyone come. It is a
    context manager; what `open` returned outlives it.

    Args:
        field: the field of the request, for messages.
        path: an absolute path; empty stands for /dev/null.

    Raises:
        NotFoundError: nothing is there.
        InvalidArgumentError: the path is not absolute, holds a NUL, or names something else.
        PermissionDeniedError: it may not be reached.
        ResourceExhaustedError: no descriptor was left.
    """

    def __init__(self, field: Field, path: str) -> None:
        self.field = field
        self.path = path or os.devnull
        if not self.path.startswith("/"):
            raise InvalidArgumentError(f"{self}: the path is not absolute")
        if "\0" in self.path:
            raise InvalidArgumentError(f"{self}: the path holds a NUL")
        try:
            encoded = self.path.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"{self}: the path is not Unicode") from error
        try:
            self.fd = os.open(encoded, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            self._fail(error)
        status = os.fstat(self.fd)
        kind = stat.S_IFMT(status.st_mode)
        self.is_fifo = kind == stat.S_IFIFO
        self.identity = status.st_dev, status.st_ino
        if kind not in (stat.S_IFIFO, stat.S_IFREG, stat.S_IFCHR):
            self.close()
            raise InvalidArgumentError(
                f"{self} is {_KINDS.get(kind, 'of an unknown kind')};"
                " it must be a FIFO, a regular file or a character device"
            )

    def open(self, flags: int, *, blocking: bool = True) -> int:
        """Opens it, without waiting for anyone and without taking a terminal as one's own.

        Args:
            flags: as for open(2); O_APPEND is ignored by what is not a regular file.
            blocking: whether its reads and writes wait. A process expects them to.

        Raises:
            ShimError: as for the class.
        """
        try:
            fd = reopen(self.fd, flags | os.O_NONBLOCK)
        except OSError as error:
            self._fail(error)
        if blocking:
            os.set_blocking(fd, True)
        return fd

    def close(self) -> None:
        """Gives the descriptor back that the finding took."""
        os.close(self.fd)

    def _fail(self, error: OSError) -> NoReturn:
        failure = _ERRORS.get(error.errno or 0, InvalidArgumentError)
        raise failure(f"{self}: {error.strerror}") from error

    def __str__(self) -> str:
        path = self.path
        if len(path) > _LONGEST_PATH:
            path = path[:_LONGEST_PATH] + "…"
        return f"{self.field} {path!r}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
