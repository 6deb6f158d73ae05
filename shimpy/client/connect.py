"""A client of a shim that runs already."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from grpclib.client import Channel, Handler
from grpclib.protocol import H2Protocol

from shimpy import linux
from shimpy.client.client import ShimClient
from shimpy.errors import DeadlineExceededError, PermissionDeniedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from shimpy.client.guard import Guard
    from shimpy.client.model import StrPath


class _TellingHandler(Handler):
    """Tells when its connection has ended."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def close(self) -> None:
        super().close()
        self.lost.set()


class _LocalChannel(Channel):
    """A channel to a Unix socket that sends nothing to a server of another user, except root.

    A user who may write to the directory of a shim's socket can replace it with his own, and what a client
    sends is confidential: command lines, environments.

    Args:
        address: where to connect: a path that the kernel takes.
        name: what the user calls it.

    Attributes:
        connections: how many it has made.
    """

    def __init__(self, address: str, name: StrPath) -> None:
        super().__init__(path=address)
        self.connections = 0
        self._address = address
        self._name = os.fspath(name)

    async def wait_lost(self) -> None:
        """Waits until there is no connection; the next call makes one."""
        protocol = self._protocol
        if protocol is not None and isinstance(protocol.handler, _TellingHandler):
            await protocol.handler.lost.wait()

    def _protocol_factory(self) -> H2Protocol:
        return H2Protocol(_TellingHandler(), self._config, self._h2_config)

    async def _create_connection(self) -> H2Protocol:
        """Connects, checks whose server it is, and only then starts HTTP/2."""
        connection = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK)
        try:
            # A Unix socket is connected or refused at once: there is nothing to wait for.
            connection.connect(self._address)
            self._check(linux.peer(connection))
            self.connections += 1
            _, protocol = await asyncio.get_running_loop().create_unix_connection(
                self._protocol_factory, sock=connection
            )
        except BaseException:
            connection.close()
            raise
        return protocol

    def _check(self, server: linux.Peer) -> None:
        if not server.is_root_or_this_user:
            raise PermissionDeniedError(
                f"{self._name}: process {server.pid} of user {server.uid} listens there; only a shim of "
                f"user {os.geteuid()} or of root is trusted, and nothing was sent"
            )


@asynccontextmanager
async def connect(socket: StrPath, *, timeout: float = 5.0) -> AsyncIterator[ShimClient]:
    """Connects to a running shim; the end of the block ends the connection and nothing else.

    For example:

        async with shimpy.connect("/run/job.sock") as client:
            print(await client.state())

    A client whose block has ended raises UnavailableError for every call.

    Where a keeper or a service manager holds the socket of a shim that dies, and starts another, that is not
    the end: calls under way are made again there and take effect once, and subscriptions go on without a gap.

    Args:
        socket: path of its socket, of any length.
        timeout: seconds that it has to answer.

    Raises:
        UnavailableError: no shim answers there.
        PermissionDeniedError: what listens there belongs neither to this user nor to root. Nothing was
            sent to it. Any later call raises this too, if it has to connect again and finds the like.
    """
    async with connected(socket, timeout=timeout) as client:
        yield client


@asynccontextmanager
async def connected(
    socket: StrPath, *, timeout: float = 5.0, guard: Guard | None = None
) -> AsyncIterator[ShimClient]:
    """Does what `connect` says.

    Args:
        socket: path of its socket, of any length.
        timeout: seconds that it has to answer.
        guard: see `ShimClient`.
    """
    with short_socket_path(socket) as path:
        async with _LocalChannel(path, socket) as channel:
            client = ShimClient(channel, guard)
            try:
                await client.calls.probe(timeout)
            except (UnavailableError, DeadlineExceededError) as error:
                raise UnavailableError(f"no shim answers at {os.fspath(socket)}: {error}") from error
            try:
                yield client
            finally:
                await client.aclose()
                disable_reconnect(channel)


def disable_reconnect(channel: Channel) -> None:
    """Makes every call over a channel fail that would need a new connection.

    Closing a grpclib channel does not: the next call opens it again. One that was never given an
    address dials grpclib's default, where any program may listen.
    """
    channel._create_connection = _ended  # type: ignore[method-assign] # grpclib has no public way


async def _ended() -> H2Protocol:
    raise ConnectionError("the client's block has ended")


@contextmanager
def short_socket_path(socket: StrPath) -> Iterator[str]:
    """Gives the path of a socket that is short enough to connect to, for the time of the block.

    Args:
        socket: its path, of any length.

    Raises:
        UnavailableError: its directory is not there.
    """
    path = os.path.abspath(socket)
    if len(os.fsencode(path)) <= linux.LONGEST_SOCKET_ADDRESS:
        yield path
        return
    directory, name = os.path.split(path)
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise UnavailableError(f"no shim answers at {path}: {error.strerror}") from error
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
