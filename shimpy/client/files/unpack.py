"""Writes what a tar stream holds into a tree."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tarfile
from contextlib import suppress
from threading import Event
from typing import IO, TYPE_CHECKING, BinaryIO

from shimpy import linux
from shimpy.client.files.tree import called, check_kept, is_directory, split
from shimpy.errors import CanceledError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimpy.client.files.tree import FileTree
    from shimpy.core.model import User

# Bytes; so many zeros at a time stay a hole.
_COPIED_AT_ONCE = 1 << 16


class Unpacker:
    """Makes files and folders in a tree.

    A file appears whole under its name, or not at all. On the host it has no name until then, if the
    filesystem knows such files, so that nothing is left of it when this program is killed. In a container
    owners and modes are kept; on the host all is this user's, the set-user-ID bit and the like are cleared,
    and FIFOs and devices are left out.

    Args:
        tree: where.
        directory: the directory in it that names are relative to.
        owner: whose all is to be, as the container numbers; None: as the archive says.
        stop: is set when this is to end early.
    """

    def __init__(self, tree: FileTree, directory: str, owner: User | None, stop: Event) -> None:
        self._tree = tree
        self._directory = directory
        self._owner = owner
        self._stop = stop

    def unpack(self, source: BinaryIO) -> None:
        """Makes all that an archive holds; one that is compressed by gzip, bzip2 or xz will do.

        Raises:
            InvalidArgumentError: it is not an archive, or names something outside of the directory.
            PermissionDeniedError: it is to be in a filesystem of the kernel's own, such as procfs.
            OSError: something cannot be written.
        """
        with self._tree.writing():
            self._unpack(source)

    def make_file(self, path: str, entry: tarfile.TarInfo, content: IO[bytes]) -> None:
        """Makes a file, and the directories that it is in.

        Args:
            path: of it, relative to the directory.
            entry: describes it; an error has its name.
            content: what is to be in it.

        Raises:
            PermissionDeniedError: it is to be in a filesystem of the kernel's own, such as procfs.
            OSError: it cannot be written.
        """
        with self._tree.writing():
            self._make(_relative(path), entry, content)

    def _unpack(self, source: BinaryIO) -> None:
        times: list[tuple[str, float]] = []
        try:
            with tarfile.open(fileobj=source, mode="r|*") as archive:
                for entry in archive:
                    self._check_stop()
                    path = _relative(entry.name)
                    if path:
                        content = archive.extractfile(entry) if entry.isreg() else None
                        self._make(path, entry, content)
                        if entry.isdir():
                            times.append((path, entry.mtime))
        except tarfile.TarError as error:
            raise InvalidArgumentError(f"the archive cannot be read: {error}") from error
        # What is made in a directory changes its time.
        for path, mtime in reversed(times):
            with suppress(OSError):
                fd = self._tree.open(self._in_directory(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    if linux.kernel_filesystem(fd) is None:
                        os.utime(fd, (mtime, mtime))
                finally:
                    os.close(fd)

    def _make(self, path: str, entry: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        if not self._tree.is_container and not (
            entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()
        ):
            return
        parent_path, name = split(path)
        parent = self._parent(parent_path)
        try:
            with called(entry.name):
                self._make_in(parent, path, name, entry, content)
        finally:
            os.close(parent)

    def _make_in(
        self, parent: int, path: str, name: str, entry: tarfile.TarInfo, content: IO[bytes] | None
    ) -> None:
        check_kept(parent, entry.name)
        if entry.isdir():
            self._make_directory(parent, path, name, entry)
        elif entry.isreg() and content is not None:
            self._make_file(parent, name, entry, content)
        elif entry.issym():
            self._replace(parent, name, lambda new: self._make_link(parent, new, entry))
        elif entry.islnk():
            self._replace(parent, name, lambda new: self._make_hard_link(parent, new, entry))
        elif entry.isfifo():
            self._replace(parent, name, lambda new: self._make_fifo(parent, new, entry))
        else:
            raise InvalidArgumentError(f"{path}: is a device, which is not made in a container")

    def _parent(self, path: str) -> int:
        """Opens a directory, which is made if it is not there."""
        whole = self._in_directory(path)
        try:
            return self._tree.open(whole, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if path in (".", ""):
                raise
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            self._make(path, entry, None)
            return self._tree.open(whole, os.O_RDONLY | os.O_DIRECTORY)

    def _make_directory(self, parent: int, path: str, name: str, entry: tarfile.TarInfo) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if is_directory(self._tree, self._in_directory(path)):
                return  # as it was; a link to a directory is one
            raise
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._describe(fd, entry)
        finally:
            os.close(fd)

    def _make_file(self, parent: int, name: str, entry: tarfile.TarInfo, content: IO[bytes]) -> None:
        def make(new: str) -> None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(new, flags, 0o600, dir_fd=parent), "wb") as file:
                self._fill(file, entry, content)

        # In a container it may be another's by then, and not this user's to link (proc_sys_fs(5)).
        fd = None if self._tree.is_container else _open_unnamed(parent)
        if fd is None:
            self._replace(parent, name, make, is_file=True)
            return
        with open(fd, "wb") as file:
            self._fill(file, entry, content)
            try:
                _link(fd, parent, name)
            except FileExistsError:
                self._replace(parent, name, lambda new: _link(fd, parent, new), is_file=True)

    def _fill(self, file: BinaryIO, entry: tarfile.TarInfo, content: IO[bytes]) -> None:
        while data := content.read(_COPIED_AT_ONCE):
            self._check_stop()
            # A container's files may have holes that are larger than the host's disk.
            if self._tree.is_container or data != bytes(len(data)):
                file.write(data)
            else:
                file.seek(len(data), os.SEEK_CUR)
        file.truncate()  # also flushes, and makes a hole at the end a part of it
        self._describe(file.fileno(), entry)
        os.utime(file.fileno(), (entry.mtime, entry.mtime))

    def _make_link(self, parent: int, new: str, entry: tarfile.TarInfo) -> None:
        os.symlink(entry.linkname, new, dir_fd=parent)
        if self._tree.is_container:
            os.chown(new, *self._ids(entry), dir_fd=parent, follow_symlinks=False)

    def _make_hard_link(self, parent: int, new: str, entry: tarfile.TarInfo) -> None:
        fd = self._tree.open(self._in_directory(_relative(entry.linkname)), os.O_PATH | os.O_NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidArgumentError(f"{entry.name}: is a hard link to something else than a file")
            _link(fd, parent, new)
        finally:
            os.close(fd)

    def _make_fifo(self, parent: int, new: str, entry: tarfile.TarInfo) -> None:
        os.mkfifo(new, entry.mode & 0o777, dir_fd=parent)
        os.chown(new, *self._ids(entry), dir_fd=parent, follow_symlinks=False)

    def _replace(self, parent: int, name: str, make: Callable[[str], None], *, is_file: bool = False) -> None:
        """Makes something under another name and then gives it its own, in place of what has that."""
        new = f".shimpy-{secrets.token_hex(8)}"
        try:
            make(new)
            if not _is_mounted(parent, name):
                os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
            elif is_file:
                _write_through(parent, new, name)
            else:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        finally:
            with suppress(OSError):  # it has its name by now; or, a link to the same file, it had that before
                os.unlink(new, dir_fd=parent)

    def _describe(self, fd: int, entry: tarfile.TarInfo) -> None:
        if self._tree.is_container:
            os.fchown(fd, *self._ids(entry))  # first: it clears the set-user-ID bit
            os.fchmod(fd, entry.mode & 0o7777)
        else:
            os.fchmod(fd, entry.mode & 0o777)

    def _ids(self, entry: tarfile.TarInfo) -> tuple[int, int]:
        uid, gid = (entry.uid, entry.gid) if self._owner is None else (self._owner.uid, self._owner.gid)
        return self._tree.uids.outside(uid), self._tree.gids.outside(gid)

    def _in_directory(self, path: str) -> str:
        return f"{self._directory}/{path}" if path not in ("", ".") else self._directory

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise CanceledError(os.strerror(errno.ECANCELED))


def _open_unnamed(directory: int) -> int | None:
    """Opens a new file that has no name yet (O_TMPFILE, open(2)); None: the filesystem has no such files."""
    try:
        return os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
        return None


def _link(fd: int, directory: int, name: str) -> None:
    """Gives an open file a name."""
    os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)


def _is_mounted(parent: int, name: str) -> bool:
    """Returns whether something is mounted there, such as a file on a container's /etc/hosts.

    In another mount namespace than its own a mount does not keep its place from being renamed over, but
    vanishes with it (rename(2), EBUSY).
    """
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return False
    try:
        return _mount_id(fd) != _mount_id(parent)
    finally:
        os.close(fd)


def _mount_id(fd: int) -> str:
    """Returns which mount a file was opened in (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next(line for line in file if line.startswith("mnt_id:"))


def _write_through(parent: int, new: str, name: str) -> None:
    """Copies a file into one that is a mount point, and is not to be replaced."""
    old = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if not stat.S_ISREG(os.fstat(old).st_mode):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        check_kept(old, name)
        source = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        with open(source, "rb") as content, open(f"/proc/self/fd/{old}", "wb") as target:
            shutil.copyfileobj(content, target)
    finally:
        os.close(old)


def _relative(name: str) -> str:
    """Returns a name in an archive as a path in the directory; empty for the directory itself.

    Raises:
        InvalidArgumentError: it leads out of it.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidArgumentError(f"the archive names {name!r}, which is outside of the directory")
    return "/".join(parts)
