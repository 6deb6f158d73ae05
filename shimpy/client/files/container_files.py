"""Files and folders of a container: put into it, and got out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimpy.client.control import ContainerControl
from shimpy.core.model import User

if TYPE_CHECKING:
    from collections.abc import AsyncIterable
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import ByteReceiveStream

    from shimpy.client.model import StrPath

_ROOT = User()


class ContainerFiles(ContainerControl):
    """A container whose files are reached from outside, without a program in it.

    This program has to see the container's processes in its /proc and may look into them (ptrace(2)), as root
    on the same machine does. Paths are those of the container's init, which must not have ended. Needs
    Linux 5.6.
    """

    async def put(self, source: StrPath, path: StrPath, *, owner: User | None = _ROOT) -> None:
        """Copies a file or folder into the container, as `docker cp` does.

        Args:
            source: what to copy. A folder's name that ends in `/.` stands for what is in it.
            path: where to, absolute. In a directory that is there it keeps its name; otherwise this is its
                name, in a directory that has to be there.
            owner: whose it is to be, as the container numbers, root's by default; None: the numbers
                that it has outside.

        Raises:
            NotFoundError: the source, or the directory that it is to be in, is not there.
            AlreadyExistsError: a folder would take the place of a file.
            PermissionDeniedError: the container's filesystem is read-only there, or the kernel's own.
            FailedPreconditionError: the container's init has ended.
        """
        from shimpy.client.files import operations

        await operations.put(self._client, self.pid, source, path, owner)

    async def get(self, path: StrPath, target: StrPath, *, limit: int | None = 1 << 30) -> None:
        """Copies a file or folder out of the container, as `docker cp` does.

        On the host all is this user's. FIFOs, devices, sockets and what is in /proc or another filesystem of
        the kernel's own are left out, and no file gets the set-user-ID or set-group-ID bit. Links are copied
        as they are: a program that follows one leaves the folder. A file appears whole, or not at all, also
        when this program is killed; a folder appears file by file.

        Args:
            path: what to copy, absolute; a link is followed. A folder's name that ends in `/.` stands for
                what is in it.
            target: where to. In a directory that is there it keeps its name; otherwise this is its name.
            limit: bytes that all files together may have, holes included, each file, link and folder counting
                512 more; None: any number.

        Raises:
            NotFoundError: it, or the directory that it is to be in, is not there.
            PermissionDeniedError: it is the kernel's itself.
            ResourceExhaustedError: the limit is passed; what was copied until then is left.
            FailedPreconditionError: the container's init has ended.
        """
        from shimpy.client.files import operations

        await operations.get(self._client, self.pid, path, target, limit)

    async def put_archive(
        self, path: StrPath, archive: bytes | AsyncIterable[bytes], *, owner: User | None = None
    ) -> None:
        """Unpacks a tar archive in a directory of the container.

        Args:
            path: the directory, absolute; it has to be there.
            archive: the archive, or a stream of its pieces; it may be compressed by gzip, bzip2 or xz.
            owner: whose all is to be; None: the users and groups that the archive numbers.

        Raises:
            InvalidArgumentError: it is not an archive, names something outside of the directory, or has a
                device.
            NotFoundError: the directory is not there.
        """
        from shimpy.client.files import operations

        await operations.put_archive(self._client, self.pid, path, archive, owner)

    def get_archive(self, path: StrPath) -> AbstractAsyncContextManager[ByteReceiveStream]:
        """Packs a file or folder of the container as a tar archive, which comes as it is read.

        For example:

            async with container.get_archive("/srv") as archive:
                async for piece in archive:
                    file.write(piece)

        Args:
            path: what to pack, absolute; a link is followed.

        Raises:
            NotFoundError: it is not there.
            PermissionDeniedError: it is the kernel's.
        """
        from shimpy.client.files import operations

        return operations.get_archive(self._client, self.pid, path)

    async def read_file(self, path: StrPath, *, limit: int | None = 1 << 30) -> bytes:
        """Returns what is in a file of the container.

        Args:
            path: the file, absolute; links are followed.
            limit: bytes that it may have; None: any number.

        Raises:
            NotFoundError: it is not there.
            InvalidArgumentError: it is not a file.
            PermissionDeniedError: it is the kernel's, such as one of /proc.
            ResourceExhaustedError: it is larger.
        """
        from shimpy.client.files import operations

        return await operations.read_file(self._client, self.pid, path, limit)

    async def write_file(
        self, path: StrPath, data: bytes | str, *, mode: int = 0o644, owner: User = _ROOT
    ) -> None:
        """Writes a file of the container; it appears whole, or not at all.

        Args:
            path: the file, absolute; one that is there is replaced. Directories that are missing are made.
            data: what is to be in it; a str is encoded as UTF-8.
            mode: its permissions, by default 0o644.
            owner: whose it is, as the container numbers; root's by default.

        Raises:
            InvalidArgumentError: the path names a directory.
            PermissionDeniedError: the container's filesystem is read-only there, or the kernel's own.
        """
        from shimpy.client.files import operations

        await operations.write_file(self._client, self.pid, path, data, mode, owner)
