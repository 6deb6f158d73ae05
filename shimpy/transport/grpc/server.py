"""The server: accepts connections and shuts them down gracefully."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol as Interface

from grpclib.const import Handler, Status

from shimpy.transport.grpc.calls import Calls, GrpcCall
from shimpy.transport.grpc.connection import Protocol
from shimpy.transport.grpc.limits import MAX_CONNECTIONS

_log = logging.getLogger(__name__)

# What the parts of a shutdown may take, in seconds, after the grace that calls under way are given: to roll
# back what was cancelled, for the streams to be drained, to close the connections (twice that). With the
# 1.2 s of grace that the server gives this makes 2.5 s of the 3 s that the contract allows.
_ROLL_BACK = 0.3
_DRAIN_STREAMS = 0.4
_CLOSING = 0.15

_SHUTTING_DOWN = "the shim is shutting down"


class Service(Interface):
    """What can be served: betterproto's service classes, and grpclib's."""

    def __mapping__(self) -> dict[str, Handler]: ...


class GrpcServer:
    """Serves gRPC on a listening socket.

    Args:
        services: whose methods to serve; every handler should have gone through `wrap`.
        later: services by their full names that are made when the first call for them comes.
        admit: is given the transport of each new connection; returns who the peer is, for the log, or raises
            PermissionError to send it away.
    """

    def __init__(
        self,
        services: Iterable[Service],
        *,
        later: Mapping[str, Callable[[], Service]] | None = None,
        admit: Callable[[asyncio.BaseTransport], object] = lambda _: None,
    ) -> None:
        self._mapping: dict[str, Handler] = {}
        for service in services:
            self._mapping.update(service.__mapping__())
        self._later = dict(later or {})
        self._admit = admit
        self._listener: asyncio.Server | None = None
        self._connections: set[Protocol] = set()
        # Those whose connection is lost and who are still undoing what they did are among them.
        self._calls_under_way: set[GrpcCall] = set()
        self._draining = False

    async def start(self, sock: socket.socket) -> None:
        """Begins to serve.

        Args:
            sock: a bound stream socket, which the server owns from now on.
        """
        self._listener = await asyncio.get_running_loop().create_server(self._protocol, sock=sock)

    def _protocol(self) -> Protocol:
        return Protocol(self._calls, self._admit, self._opened, self._connections.discard)

    def _calls(self, peer: object, answered: Callable[[], None]) -> Calls:
        return Calls(
            self._find,
            self._calls_under_way,
            peer=peer,
            is_draining=lambda: self._draining,
            answered=answered,
        )

    def _find(self, path: str) -> Handler | None:
        """Returns the method of a path; creates its service at the first call."""
        if path not in self._mapping and (make := self._later.pop(path[1:].partition("/")[0], None)):
            self._mapping.update(make().__mapping__())
        return self._mapping.get(path)

    def _opened(self, connection: Protocol) -> bool:
        room = len(self._connections) < MAX_CONNECTIONS
        self._connections.add(connection)
        return room

    async def drain(self, grace: float, *, end_streams: Callable[[], None] = lambda: None) -> None:
        """Ends the server so that every client learns how its calls ended.

        New connections are refused, new calls get UNAVAILABLE. Calls under way have the grace to come to
        their answer, then the streams are drained; what is left gets UNAVAILABLE, and no connection outlives
        the call.

        Args:
            grace: seconds for the calls under way.
            end_streams: called when those have been answered; ends the streams after what they have to say.
        """
        self._draining = True
        if self._listener is not None:
            self._listener.close()
        await self._ended(grace, streams=False)
        self._break_off(streams=False)
        await self._ended(_ROLL_BACK, streams=False)
        end_streams()
        await self._ended(_DRAIN_STREAMS, streams=True)
        self._break_off(streams=True)
        await self._ended(_CLOSING, streams=True)
        if self._connections:
            await asyncio.gather(*(each.close_gracefully(_CLOSING) for each in self._connections))
        for each in self._connections:
            each.abort()
        # A transport that is aborted says so one turn of the loop later.
        lost = [asyncio.ensure_future(each.lost.wait()) for each in self._connections]
        if lost:
            await asyncio.wait(lost, timeout=_CLOSING)
        await self._ended(_CLOSING, streams=True)

    def _under_way(self, *, streams: bool) -> list[GrpcCall]:
        return [call for call in self._calls_under_way if streams or not call.streaming]

    async def _ended(self, timeout: float, *, streams: bool) -> None:
        tasks = [call.task for call in self._under_way(streams=streams)]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    def _break_off(self, *, streams: bool) -> None:
        for call in self._under_way(streams=streams):
            _log.warning("%s was broken off: %s", call.path, _SHUTTING_DOWN)
            call.end(Status.UNAVAILABLE, _SHUTTING_DOWN)
