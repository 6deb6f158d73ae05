"""The server: who may connect to it, and how it takes leave."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from typing import Final, cast

from shimpy.transport.methods import Services
from shimpy.transport.ttrpc.connection import SHUTTING_DOWN, Connection, Shared

# Connections open at once. containerd needs one for each container of a pod; it keeps the file descriptors
# that they take far below the usual limit of 1,024.
MAX_CONNECTIONS: Final = 256

# Seconds, after the grace, for what was broken off to be undone, and for clients to read their last answers.
_ROLL_BACK: Final = 0.3
_LAST_ANSWERS: Final = 0.15

_log = logging.getLogger(__name__)

_CREDENTIALS: Final = struct.Struct("3i")


def admit_same_user(transport: asyncio.BaseTransport) -> None:
    """Checks who has connected (SO_PEERCRED in unix(7)).

    Raises:
        PermissionError: it is neither root nor of this process's user and group.
    """
    connection = cast(socket.socket, transport.get_extra_info("socket"))
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    if uid != 0 and (uid, gid) != (os.geteuid(), os.getegid()):
        raise PermissionError(f"process {pid} belongs to user {uid} and group {gid}")


class TtrpcServer:
    """Serves ttrpc on a listening unix socket, to its own user and group and to root.

    Args:
        services: what to serve.
    """

    def __init__(self, services: Services) -> None:
        self._shared = Shared(services, admit_same_user, MAX_CONNECTIONS)
        self._listener: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Begins to serve.

        Args:
            sock: a bound stream socket, which the server owns from now on.
        """
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._shared), sock=sock
        )

    @property
    def connected(self) -> int:
        """How many connections are open."""
        return len(self._shared.connections)

    async def drain(self, grace: float) -> None:
        """Ends the server so that every client learns how its calls ended.

        New connections are refused, new calls get UNAVAILABLE. Calls under way have the grace to come to
        their answer; what is left is cancelled and gets UNAVAILABLE, and no connection outlives the call.

        Args:
            grace: seconds for the calls under way.
        """
        self._shared.draining = True
        if self._listener is not None:
            self._listener.close()
        await self._calls_ended(grace)
        for call in self._shared.calls:
            _log.warning("%s was broken off: %s", call.name, SHUTTING_DOWN)
            call.end("UNAVAILABLE", SHUTTING_DOWN)
        await self._calls_ended(_ROLL_BACK)
        for connection in list(self._shared.connections):
            connection.transport.close()
        await self._connections_lost(_LAST_ANSWERS)
        for connection in list(self._shared.connections):
            connection.transport.abort()
        await self._connections_lost(_LAST_ANSWERS)

    async def _calls_ended(self, timeout: float) -> None:
        if tasks := [call.task for call in self._shared.calls]:
            await asyncio.wait(tasks, timeout=timeout)

    async def _connections_lost(self, timeout: float) -> None:
        if lost := [connection.lost for connection in self._shared.connections]:
            await asyncio.wait(lost, timeout=timeout)
