"""The server: who may connect to it, and how it takes leave."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from shimpy.transport.methods import Services
from shimpy.transport.ttrpc.connection import SHUTTING_DOWN, Connection, Shared

# Connections open at once. containerd needs one for each container of a pod; it keeps the file descriptors
# that they take far below the usual limit of 1,024.
MAX_CONNECTIONS: Final = 256

# Turns of the event loop that asyncio takes at most from accepting a connection to telling its protocol.
_ACCEPT_TURNS: Final = 4

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
        self._socket: socket.socket | None = None

    async def start(self, sock: socket.socket) -> None:
        """Begins to serve.

        Args:
            sock: a bound stream socket, which the server owns from now on.
        """
        self._socket = sock
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._shared), sock=sock
        )

    @property
    def connected(self) -> int:
        """How many connections are open."""
        return len(self._shared.connections)

    @property
    def under_way(self) -> dict[asyncio.Task[Any], str]:
        """The calls that are not repeatable, what serves each and its name."""
        return {call.task: call.name for call in self._shared.calls if call.request is None}

    @property
    def has_unsent(self) -> bool:
        """Whether a client has not read all of its answers."""
        return any(each.transport.get_write_buffer_size() for each in self._shared.connections)

    async def pause(self) -> socket.socket:
        """Reads nothing more: clients, and new ones, wait until `resume`.

        Returns:
            The listening socket, for that.
        """
        if self._listener is None or self._socket is None:
            raise RuntimeError("the server has not been started")
        listener = self._socket.dup()
        self._shared.paused = True
        self._listener.close()
        for connection in self._shared.connections:
            connection.transport.pause_reading()
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        return listener

    async def resume(self, listener: socket.socket) -> None:
        """Goes on after `pause`.

        Args:
            listener: what that returned.
        """
        self._shared.paused = False
        for connection in self._shared.connections:
            connection.read_on()
        await self.start(listener)

    def hand_over(self) -> list[tuple[int, dict[str, Any]]]:
        """Returns the connections of a server that is paused, with nothing under way and nothing unsent.

        Returns:
            The file descriptor of each, and what else has to be known of it.
        """
        return [
            (each.transport.get_extra_info("socket").fileno(), each.recorded())
            for each in self._shared.connections
            if not each.transport.is_closing()
        ]

    async def take_up(self, connections: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Goes on with connections.

        Args:
            connections: as another's `hand_over` returned them.
        """
        loop = asyncio.get_running_loop()
        for fd, known in connections:
            make = functools.partial(Connection, self._shared, known)
            await loop.connect_accepted_socket(make, socket.socket(fileno=fd))

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
