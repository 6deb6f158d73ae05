"""A client of a shim that runs already."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from grpclib.client import Channel

from shimpy.client.client import ShimClient
from shimpy.errors import DeadlineExceededError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from grpclib.protocol import H2Protocol

    from shimpy.client.model import StrPath

_SUN_PATH = 107
"""The longest path that fits the kernel's address of a Unix socket, unix(7)."""


@asynccontextmanager
async def connect(socket: StrPath, *, timeout: float = 5.0) -> AsyncIterator[ShimClient]:
    """Connects to a running shim; the end of the block ends the connection and nothing else.

    ::

        async with shimpy.connect("/run/job.sock") as client:
            print(await client.state())

    A client whose block has ended raises UnavailableError for every call.

    Args:
        socket: path of its socket, of any length.
        timeout: seconds that it has to answer.

    Raises:
        UnavailableError: no shim answers there.
    """
    with reachable(socket) as path:
        async with Channel(path=path) as channel:
            client = ShimClient(channel)
            try:
                await client.state(timeout=timeout)
            except (UnavailableError, DeadlineExceededError) as error:
                raise UnavailableError(f"no shim answers at {os.fspath(socket)}: {error}") from error
            try:
                yield client
            finally:
                await client.aclose()
                dials_no_more(channel)


def dials_no_more(channel: Channel) -> None:
    """Makes every call over a channel fail that would need a new connection.

    Closing a grpclib channel does not: the next call opens it again. One that was never given an
    address dials grpclib's default, whoever may listen there.
    """
    channel._create_connection = _ended  # type: ignore[method-assign] # there is no other way to say it


async def _ended() -> H2Protocol:
    raise ConnectionError("the client's block has ended")


@contextmanager
def reachable(socket: StrPath) -> Iterator[str]:
    """Gives the path of a socket that is short enough to connect to, for the time of the block.

    Args:
        socket: its path, of any length.

    Raises:
        UnavailableError: its folder is not there.
    """
    path = os.path.abspath(socket)
    if len(os.fsencode(path)) <= _SUN_PATH:
        yield path
        return
    folder, name = os.path.split(path)
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise UnavailableError(f"no shim answers at {path}: {error.strerror}") from error
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
