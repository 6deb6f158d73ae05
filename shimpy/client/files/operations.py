"""Copies to and from a container; see `ContainerFiles`."""

from __future__ import annotations

import io
import os
import tarfile
import time
from contextlib import asynccontextmanager, closing
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from shimpy.client.deadline import check_output_limit
from shimpy.client.files.pack import Packer
from shimpy.client.files.read import read
from shimpy.client.files.transfer import archive_of, check_archive, copy, in_thread, unpack_from
from shimpy.client.files.tree import ContainerTree, FileTree, called, is_directory, split
from shimpy.client.files.unpack import Unpacker
from shimpy.client.model import ProcessState
from shimpy.core.model import User
from shimpy.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    from_oserror,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator
    from threading import Event

    from anyio.abc import ByteReceiveStream

    from shimpy.client.model import ContainerState, StrPath
    from shimpy.client.shim_calls import ShimCalls


async def put(client: ShimCalls, pid: int, source: StrPath, path: StrPath, owner: User | None) -> None:
    """See `ContainerFiles.put`."""
    origin, target = os.fspath(source), _absolute(path)
    _check_owner(owner)
    real = os.path.realpath(origin)
    if not os.path.exists(real):
        raise NotFoundError(f"put: there is no {origin}")
    with closing(await _tree(client, pid)) as tree, closing(_host_tree(os.path.dirname(real))) as host:
        directory, name = await in_thread(
            lambda _: place(tree, target, origin, is_folder=os.path.isdir(real)), f"put: {target}"
        )

        def pack(output: BinaryIO, stop: Event) -> None:
            Packer(host, output, stop).pack(os.path.basename(real) or ".", name)

        def unpack(archive: BinaryIO, stop: Event) -> None:
            Unpacker(tree, directory, owner, stop).unpack(archive)

        await copy(pack, unpack, f"put: {target}")


async def get(client: ShimCalls, pid: int, path: StrPath, target: StrPath, limit: int | None) -> None:
    """See `ContainerFiles.get`."""
    origin, destination = _absolute(path), os.path.abspath(target) + _slash(os.fspath(target))
    check_output_limit(limit, "limit")
    with closing(await _tree(client, pid)) as tree:
        is_folder = await in_thread(lambda _: is_directory(tree, origin), f"get: {origin}")
        if is_folder is None:
            raise NotFoundError(f"get: there is no {origin} in the container")
        directory, name = await in_thread(
            lambda _: place_on_host(destination, origin, is_folder=is_folder), f"get: {target}"
        )
        with closing(_host_tree(directory)) as host:

            def pack(output: BinaryIO, stop: Event) -> None:
                Packer(tree, output, stop, limit).pack(origin, name)

            def unpack(archive: BinaryIO, stop: Event) -> None:
                Unpacker(host, ".", None, stop).unpack(archive)

            await copy(pack, unpack, f"get: {origin}")


async def put_archive(
    client: ShimCalls, pid: int, path: StrPath, archive: bytes | AsyncIterable[bytes], owner: User | None
) -> None:
    """See `ContainerFiles.put_archive`."""
    target = _absolute(path)
    _check_owner(owner)
    check_archive(archive)
    with closing(await _tree(client, pid)) as tree:
        if not await in_thread(lambda _: is_directory(tree, target), f"put_archive: {target}"):
            raise NotFoundError(f"put_archive: there is no directory {target} in the container")

        def unpack(source: BinaryIO, stop: Event) -> None:
            Unpacker(tree, target, owner, stop).unpack(source)

        await unpack_from(archive, unpack, f"put_archive: {target}")


@asynccontextmanager
async def get_archive(client: ShimCalls, pid: int, path: StrPath) -> AsyncIterator[ByteReceiveStream]:
    """See `ContainerFiles.get_archive`."""
    origin = _absolute(path)
    with closing(await _tree(client, pid)) as tree:
        if await in_thread(lambda _: is_directory(tree, origin), f"get_archive: {origin}") is None:
            raise NotFoundError(f"get_archive: there is no {origin} in the container")

        def pack(output: BinaryIO, stop: Event) -> None:
            Packer(tree, output, stop).pack(origin, split(origin)[1])

        async with archive_of(pack, f"get_archive: {origin}") as stream:
            yield stream


async def read_file(client: ShimCalls, pid: int, path: StrPath, limit: int | None) -> bytes:
    """See `ContainerFiles.read_file`."""
    target = _absolute(path)
    check_output_limit(limit, "limit")
    with closing(await _tree(client, pid)) as tree:
        return await in_thread(lambda stop: read(tree, target, limit, stop), f"read_file: {target}")


async def write_file(
    client: ShimCalls, pid: int, path: StrPath, data: bytes | str, mode: int, owner: User
) -> None:
    """See `ContainerFiles.write_file`."""
    target = _absolute(path)
    if target.endswith(("/", "/.", "/..")):
        raise InvalidArgumentError(f"path: {target!r} names a directory")
    _check_owner(owner)
    content = _bytes(data)
    # What is above the last `..` has to be there, as for open(2).
    above, up, name = target.rpartition("/../")
    entry = tarfile.TarInfo(target)
    entry.size, entry.mode, entry.mtime = len(content), _mode(mode), time.time()

    def write(stop: Event) -> None:
        with called(None):  # the error has its name already
            Unpacker(tree, above + up or "/", owner, stop).make_file(name, entry, io.BytesIO(content))

    with closing(await _tree(client, pid)) as tree:
        await in_thread(write, f"write_file: {target}")


async def _tree(client: ShimCalls, pid: int) -> ContainerTree:
    """Opens the root of a container's init, and makes sure that it was that."""
    tree = ContainerTree(pid)
    try:
        # Still there, and so it was when its root was opened: its pid cannot have been another's.
        _check_lives(await client.state(), pid)
    except BaseException:
        tree.close()
        raise
    return tree


def _check_lives(state: ContainerState, pid: int) -> None:
    states = {process.pid: process.state for process in state.processes}
    if state.pid != pid or states.get(pid) in (None, ProcessState.STOPPED):
        raise FailedPreconditionError("the container's init has ended, and its root with it")


def place(tree: FileTree, path: str, source: str, *, is_folder: bool) -> tuple[str, str]:
    """Returns the directory to copy into, and the name there; empty to copy only what is in a folder.

    Args:
        tree: where.
        path: where to, in it.
        source: what is copied, as it was named.
        is_folder: whether it is a folder.

    Raises:
        ShimError: that cannot be.
    """
    there = is_directory(tree, path)
    if there:
        return path, "" if is_folder and source.endswith("/.") else _name(source)
    if there is not None:
        if is_folder or path.endswith("/"):
            raise AlreadyExistsError(f"{path} is a file, which a folder cannot take the place of")
        return split(path)
    directory, name = split(path)
    if not is_folder and path.endswith("/"):
        raise NotFoundError(f"there is no directory {path}")
    if not is_directory(tree, directory):
        raise NotFoundError(f"there is no directory {directory}")
    return directory, name


def place_on_host(path: str, source: str, *, is_folder: bool) -> tuple[str, str]:
    """Does the same for a path on the host, whose links are followed."""
    with closing(_host_tree("/")) as root:
        return place(root, os.path.realpath(path) + _slash(path), source, is_folder=is_folder)


def _host_tree(directory: str) -> FileTree:
    try:
        return FileTree(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise from_oserror(error, f"directory {directory}", default=InvalidArgumentError) from error


def _name(path: str) -> str:
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    return parts[-1] if parts else ""


def _slash(path: str) -> str:
    return "/" if path.endswith("/") and path.strip("/") else ""


def _check_owner(owner: object) -> None:
    if owner is not None and not isinstance(owner, User):
        raise TypeError(f"owner must be a shimpy.User, not {owner!r}")


def _bytes(data: object) -> bytes:
    if isinstance(data, str):
        return data.encode()
    try:
        return bytes(memoryview(data))  # type: ignore[arg-type] # what cannot be one is refused
    except TypeError as error:
        raise TypeError(f"data must be bytes or a str, not {data!r}") from error


def _mode(mode: object) -> int:
    if isinstance(mode, bool) or not isinstance(mode, int):
        raise TypeError(f"mode must be an int, such as 0o644, not {mode!r}")
    if not 0 <= mode <= 0o7777:
        raise ValueError(f"mode must be from 0 to 0o7777, not {mode:#o}")
    return mode


def _absolute(path: StrPath) -> str:
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"path must be a str or a path of str, not {text!r}")
    if not text.startswith("/"):
        raise InvalidArgumentError(
            f"path: {text!r} is not absolute; in a container there is nothing to begin at"
        )
    if "\0" in text:
        raise InvalidArgumentError(f"path: {text!r} has a NUL byte")
    return text
