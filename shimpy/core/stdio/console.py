"""The console socket: how the master of a terminal comes from the runtime to us."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from contextlib import ExitStack
from typing import Final

from shimpy import linux
from shimpy.core import tempdirs
from shimpy.errors import InternalError

# Seconds: a runtime has sent the master before its command succeeds.
_TIMEOUT: Final = 1.0
_NAME: Final = "console.sock"
# A runtime sends one file descriptor; room for some more lets us close them.
_DESCRIPTORS: Final = 16
# ioctl_tty(2); in the termios module since Python 3.13 only.
_TIOCGPTN: Final = 0x80045430


class ConsoleSocket:
    """The socket over which an OCI runtime hands over the master of a terminal, for one call.

    It lies in a private directory, see `tempdirs.PrivateDirectory`.

    Attributes:
        path: for the runtime's `--console-socket`.

    Raises:
        OSError: no file descriptor was left, or there is no place for temporary files.
    """

    def __init__(self) -> None:
        with ExitStack() as stack:
            directory = stack.enter_context(tempdirs.PrivateDirectory())
            self.path = f"{directory.path}/{_NAME}"
            self._socket = stack.enter_context(socket.socket(socket.AF_UNIX))
            self._socket.setblocking(False)
            self._socket.bind(self.path)
            self._socket.listen()
            self._stack = stack.pop_all()

    async def receive(self) -> int:
        """Returns the master, close-on-exec, once the runtime has sent it.

        Raises:
            InternalError: within 1 s nothing was sent, or something that is not one terminal.
        """
        try:
            async with asyncio.timeout(_TIMEOUT):
                with await self._accept() as connection:
                    await _readable(connection)
                    return _receive_master(connection)
        except TimeoutError:
            raise InternalError("the runtime succeeded, but connected no console") from None
        except OSError as error:
            raise InternalError(f"the runtime's console was not received: {error}") from error

    async def _accept(self) -> socket.socket:
        while True:
            await _readable(self._socket)
            connection, _ = self._socket.accept()
            if linux.peer(connection).is_root_or_this_user:
                connection.setblocking(False)
                return connection
            connection.close()

    def close(self) -> None:
        """Removes the socket and its directory; idempotent."""
        self._stack.close()


async def _readable(sock: socket.socket) -> None:
    # loop.sock_accept may lose a connection that it accepted when it is cancelled.
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _receive_master(connection: socket.socket) -> int:
    # socket.recv_fds gives file descriptors that our children would inherit.
    integer = struct.Struct("i")
    room = socket.CMSG_SPACE(_DESCRIPTORS * integer.size)
    _, ancillary, _, _ = connection.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(payload) // integer.size * integer.size
            fds += [fd for (fd,) in integer.iter_unpack(payload[:whole])]
    try:
        if len(fds) != 1:
            raise InternalError(f"the runtime sent {len(fds)} file descriptors as the console, not 1")
        try:
            fcntl.ioctl(fds[0], _TIOCGPTN, bytes(4))
        except OSError as error:
            raise InternalError("what the runtime sent as the console is not a terminal") from error
        return fds.pop()
    finally:
        for fd in fds:
            os.close(fd)
