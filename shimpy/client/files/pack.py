"""Writes a part of a tree as a tar stream."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, BinaryIO

from shimpy import linux
from shimpy.client.files.tree import called, check_kept
from shimpy.errors import CanceledError, InvalidArgumentError, ResourceExhaustedError

if TYPE_CHECKING:
    from shimpy.client.files.tree import FileTree

# Directories in one another: each takes a file descriptor and a Python frame while it is read.
_MAX_DEPTH = 200

# Bytes that the limit counts for what has a name, beside what is in it: a tar header's.
_ENTRY = 512


class Packer:
    """Writes a file, or a folder with all in it.

    Sockets are left out, as by tar(1), and what is in a filesystem of the kernel's own. What is removed
    meanwhile is left out too, and a file that shrinks is filled up with zeros.

    Args:
        tree: where it is.
        output: takes the archive.
        stop: is set when this is to end early.
        limit: bytes of all files together, each file, link and directory counting 512 more; None: any
            number.
    """

    def __init__(self, tree: FileTree, output: BinaryIO, stop: Event, limit: int | None = None) -> None:
        self._tree = tree
        self._stop = stop
        self._limit = self._left = limit
        self._links: dict[tuple[int, int], str] = {}
        self._tar = tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - pack closes it

    def pack(self, path: str, name: str) -> None:
        """Writes the archive.

        Args:
            path: what is to be packed; links are followed up to it.
            name: what it is called in the archive; empty: only what is in it is packed.

        Raises:
            OSError: it cannot be read.
            CanceledError: it was to end early.
            PermissionDeniedError: it is in a filesystem of the kernel's own, such as procfs.
            ResourceExhaustedError: the limit is passed.
        """
        with self._tar:
            fd = self._tree.open(path, os.O_PATH)
            try:
                if not name and not stat.S_ISDIR(os.fstat(fd).st_mode):
                    raise InvalidArgumentError(f"{path} is not a directory")
                check_kept(fd, path)
                self._add(fd, name, 0)
            finally:
                os.close(fd)

    def _add(self, fd: int, name: str, depth: int) -> None:
        self._count(name, _ENTRY)
        status = os.fstat(fd)
        entry = tarfile.TarInfo(name)
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.uid = self._tree.uids.inside(status.st_uid)
        entry.gid = self._tree.gids.inside(status.st_gid)
        entry.mtime = status.st_mtime
        if stat.S_ISDIR(status.st_mode):
            entry.type = tarfile.DIRTYPE
            if name:
                self._tar.addfile(entry)
            if linux.kernel_filesystem(fd) is None:
                self._add_children(fd, name, depth)
        elif stat.S_ISREG(status.st_mode):
            if linux.kernel_filesystem(fd) is None:
                self._add_file(fd, entry, status)
        elif stat.S_ISLNK(status.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink("", dir_fd=fd)
            self._tar.addfile(entry)
        elif not stat.S_ISSOCK(status.st_mode):
            kinds = {
                stat.S_IFIFO: tarfile.FIFOTYPE,
                stat.S_IFCHR: tarfile.CHRTYPE,
                stat.S_IFBLK: tarfile.BLKTYPE,
            }
            entry.type = kinds[stat.S_IFMT(status.st_mode)]
            entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
            self._tar.addfile(entry)

    def _add_children(self, fd: int, name: str, depth: int) -> None:
        if depth == _MAX_DEPTH:
            raise ResourceExhaustedError(
                f"{name}: there are more than {_MAX_DEPTH} directories in one another"
            )
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            for child in sorted(os.listdir(directory)):
                path = f"{name}/{child}" if name else child
                with suppress(FileNotFoundError):
                    with called(path):
                        opened = os.open(child, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                    try:
                        self._add(opened, path, depth + 1)
                    finally:
                        os.close(opened)
        finally:
            os.close(directory)

    def _add_file(self, fd: int, entry: tarfile.TarInfo, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._links:
            entry.type, entry.linkname = tarfile.LNKTYPE, self._links[identity]
            self._tar.addfile(entry)
            return
        self._links[identity] = entry.name
        entry.size = status.st_size
        self._count(entry.name, entry.size)
        # The same file that was looked at, whatever its name means by now.
        with called(entry.name):
            opened = open(f"/proc/self/fd/{fd}", "rb")  # noqa: SIM115 - the next line closes it
        with opened as file:
            self._tar.addfile(entry, _Content(file, self._stop))  # type: ignore[arg-type] # reads are all it needs

    def _count(self, name: str, size: int) -> None:
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise ResourceExhaustedError(
                    f"{name}: with it, the files have more than the {self._limit} bytes that limit= allows"
                )


class _Content:
    """A file's content at the length that was announced."""

    def __init__(self, file: BinaryIO, stop: Event) -> None:
        self._file = file
        self._stop = stop

    def read(self, size: int) -> bytes:
        if self._stop.is_set():
            raise CanceledError(os.strerror(errno.ECANCELED))
        return self._file.read(size).ljust(size, b"\0")
