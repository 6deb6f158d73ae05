"""Directory trees whose paths cannot lead out of them, and whose owners may be numbered otherwise."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import PurePosixPath

from shimpy import linux
from shimpy.core.rootfs import syscalls
from shimpy.core.rootfs.fsids import file_owner
from shimpy.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError

# What the kernel shows of an owner that has no number in a namespace (user_namespaces(7)).
_OVERFLOW = 65534


@dataclass(frozen=True, slots=True)
class IdMap:
    """How a user namespace numbers users or groups.

    Attributes:
        ranges: the first inside, the first outside, how many.
    """

    ranges: tuple[tuple[int, int, int], ...]

    @classmethod
    def parse(cls, text: str) -> IdMap:
        """Returns what a `uid_map` or `gid_map` says (user_namespaces(7))."""
        rows = (line.split() for line in text.splitlines())
        return cls(tuple((int(inside), int(outside), int(count)) for inside, outside, count in rows))

    def inside(self, number: int) -> int:
        """Returns the number in the namespace of what has this one outside."""
        for inside, outside, count in self.ranges:
            if outside <= number < outside + count:
                return inside + number - outside
        return _OVERFLOW

    def outside(self, number: int) -> int:
        """Returns the number outside of what has this one in the namespace.

        Raises:
            InvalidArgumentError: there is none.
        """
        for inside, outside, count in self.ranges:
            if inside <= number < inside + count:
                return outside + number - inside
        raise InvalidArgumentError(f"owner: {number} is not mapped in the container's user namespace")


# The map of the first user namespace.
IDENTITY = IdMap(((0, 0, 2**32 - 1),))


class FileTree:
    """A tree of the host's: a directory, below which no link is followed.

    Everything in it belongs to this process's user.

    Args:
        fd: the directory, which the tree closes.

    Attributes:
        uids: how its users are numbered.
        gids: how its groups are.
        is_container: owners and all of a mode are kept.
    """

    is_container = False

    def __init__(self, fd: int) -> None:
        self.uids = IDENTITY
        self.gids = IDENTITY
        self._fd = fd

    def open(self, path: str, flags: int) -> int:
        """Opens what a path names.

        Raises:
            OSError: it is not there, or not in the tree.
        """
        return syscalls.open_beneath(self._fd, path.lstrip("/") or ".", flags)

    def writing(self) -> AbstractContextManager[None]:
        """Lets this thread create files in it, for the time of the block."""
        return nullcontext()

    def close(self) -> None:
        """Closes it."""
        os.close(self._fd)


class ContainerTree(FileTree):
    """The root directory of a container's init, in which links are followed as init would.

    Args:
        pid: of init, as the host numbers it.

    Raises:
        FailedPreconditionError: init is not there.
    """

    is_container = True

    def __init__(self, pid: int) -> None:
        try:
            process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                uids, gids = (IdMap.parse(_read(process, name)) for name in ("uid_map", "gid_map"))
                root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
            finally:
                os.close(process)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise FailedPreconditionError("the container's init has ended, and its root with it") from error
        except PermissionError as error:
            raise PermissionDeniedError(
                "the container's files are reached by its init's /proc/PID/root, which only root may use"
            ) from error
        super().__init__(root)
        self.uids, self.gids = uids, gids

    def open(self, path: str, flags: int) -> int:
        """Opens what a path names; see `FileTree.open`."""
        return syscalls.open_in_root(self._fd, path or ".", flags)

    def writing(self) -> AbstractContextManager[None]:
        """Lets this thread create files in it; see `FileTree.writing`."""
        if self.uids == self.gids == IDENTITY:
            return nullcontext()
        return file_owner(self.uids.ranges[0][1], self.gids.ranges[0][1])


def is_directory(tree: FileTree, path: str) -> bool | None:
    """Returns whether a path, with its links followed, is a directory; None: it is not there."""
    try:
        fd = tree.open(path, os.O_PATH)
    except FileNotFoundError:
        return None
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


@contextmanager
def called(path: str | None) -> Iterator[None]:
    """Lets an OSError name what the caller knows, and not by what other name it was reached.

    Args:
        path: the name; None: the caller adds it.
    """
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def check_kept(fd: int, path: str) -> None:
    """Refuses a file or directory that the kernel makes up, such as those of /proc.

    To this process they show what is the host root's to see, and their content may never end.

    Args:
        fd: of it; O_PATH will do.
        path: names it in the error.

    Raises:
        PermissionDeniedError: it is one.
    """
    kind = linux.kernel_filesystem(fd)
    if kind is not None:
        raise PermissionDeniedError(
            f"{path} is in {kind}, whose files answer to the rights of who opens them; let a program of the "
            'container do it, as container.run(["cat", path])'
        )


def split(path: str) -> tuple[str, str]:
    """Returns the directory that a path names something in, and that name; none for a root or `..`."""
    parts = PurePosixPath(path).parts
    if not parts or parts[-1] in ("/", ".."):
        return path or ".", ""
    return str(PurePosixPath(*parts[:-1])), parts[-1]


def _read(directory: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    with open(fd, encoding="ascii") as file:
        return file.read()
