"""The three paths of a request that stand for what a process reads and writes: found and opened."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Literal, NoReturn, Self

from shimpy import linux
from shimpy.core.stdio.fifo import Fifo, StdioHub, reopen
from shimpy.errors import InvalidArgumentError, ShimError, from_oserror

Field = Literal["stdin", "stdout", "stderr"]

# In characters: a message goes into the headers of a reply, and a path may be as long as a request.
_LONGEST_PATH: Final = 256

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFLNK: "a symbolic link",
}

# What /dev/null is, wherever it is (null(4)).
_NULL: Final = os.makedev(1, 3)


class Stream:
    """A FIFO, regular file or character device that was found, and is opened for use afterwards.

    To find it touches nothing: no device is opened, no FIFO's other side sees anyone come. It is a
    context manager; what `open` returned outlives it.

    Args:
        field: the field of the request, for messages.
        path: an absolute path; empty stands for /dev/null.

    Raises:
        NotFoundError: nothing is there.
        InvalidArgumentError: the path is not absolute, holds a NUL, or names something else; the files
            of procfs and the like are not regular ones.
        PermissionDeniedError: it may not be reached.
        ResourceExhaustedError: no file descriptor or no room was left.
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
            raise self.failure(error) from error
        status = os.fstat(self.fd)
        kind = stat.S_IFMT(status.st_mode)
        self.is_fifo = kind == stat.S_IFIFO
        self.is_file = kind == stat.S_IFREG
        # Of which no open(2), read or write waits.
        self.is_null = kind == stat.S_IFCHR and status.st_rdev == _NULL
        self.identity = status.st_dev, status.st_ino
        # /proc/self/mem is the memory of who opens it, the shim, and a write to others sets something.
        if kind == stat.S_IFREG and (owner := self._kernel_filesystem()) is not None:
            self._refuse(f"a file of {owner}")
        if kind not in (stat.S_IFIFO, stat.S_IFREG, stat.S_IFCHR):
            self._refuse(_KINDS.get(kind, "of an unknown kind"))

    def open(self, flags: int, *, blocking: bool = True) -> int:
        """Opens it, without waiting for anyone and without taking a terminal as one's own.

        Args:
            flags: as for open(2); O_APPEND is ignored by what is not a regular file.
            blocking: whether its reads and writes wait. A process expects them to.

        Raises:
            ShimError: as for the class.
        """
        try:
            fd = reopen(self.fd, flags if self.is_null else flags | os.O_NONBLOCK)
        except OSError as error:
            raise self.failure(error) from error
        if blocking and not self.is_null:
            os.set_blocking(fd, True)
        return fd

    def close(self) -> None:
        """Gives the file descriptor back that the finding took."""
        os.close(self.fd)

    def failure(self, error: OSError) -> ShimError:
        """Returns what to raise when the kernel did not open it."""
        return from_oserror(error, str(self), default=InvalidArgumentError)

    def _kernel_filesystem(self) -> str | None:
        try:
            return linux.kernel_filesystem(self.fd)
        except OSError as error:
            self.close()
            raise self.failure(error) from error

    def _refuse(self, what: str) -> NoReturn:
        self.close()
        raise InvalidArgumentError(
            f"{self} is {what}; it must be a FIFO, a regular file or a character device"
        )

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


def open_output(hub: StdioHub, stream: Stream, kept: ExitStack, *, blocking: bool = True) -> int:
    """Opens what a process, or its terminal, writes to. A FIFO is kept from then on, see `fifo`.

    Args:
        hub: watches a FIFO.
        stream: what was found.
        kept: its end is the end of the FIFO's keeping.
        blocking: as for `Stream.open`.

    Raises:
        ShimError: as for `Stream`.
    """
    if not stream.is_fifo:
        return stream.open(os.O_WRONLY | os.O_APPEND, blocking=blocking)
    try:
        fifo = Fifo.keep(hub, stream.fd)
        kept.callback(fifo.release)
        return fifo.open_writer(0 if blocking else os.O_NONBLOCK)
    except OSError as error:
        raise stream.failure(error) from error
