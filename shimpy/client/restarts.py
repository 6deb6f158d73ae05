"""Calls that outlive the shim that was to answer them: another one is started, and they are made again."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError

from shimpy import api
from shimpy.client.rpc import call
from shimpy.errors import DeadlineExceededError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from grpclib.client import Channel

_Request_contra = TypeVar("_Request_contra", contravariant=True)
_Reply_co = TypeVar("_Reply_co", covariant=True)

# The metadata that a shim knows a repeated call by, and tells a client with that it does (`services`).
TOKEN = "shimpy-token"  # noqa: S105 - not a secret

_STATE = "/containerd.shim.v1.Shim/State"

# Shims that may end while one call is made: what kills each of them must not be repeated for ever.
MOST_ENDS = 10

# Seconds that a shim has to end its connections once it refuses calls.
_SHUTDOWN = 5.0

# What a call comes to whose shim has ended: the connection was lost, or the shim said so. It is another thing
# that there is nobody to connect to.
_ENDED = (StreamTerminatedError, ConnectionResetError, BrokenPipeError, AttributeError, GRPCError)


class RepeatableMethod(Protocol[_Request_contra, _Reply_co]):
    """A call of a stub."""

    def __call__(
        self, request: _Request_contra, /, *, timeout: float | None, metadata: Mapping[str, str] | None
    ) -> Coroutine[Any, Any, _Reply_co]: ...


class CallRepeater:
    """Makes the calls of one client.

    Where the shim keeps a journal, each call has a token: made again, it takes effect once. It is made again
    when its shim ends and the socket still takes connections: somebody keeps that open for the next shim.

    Args:
        channel: to the shim.

    Attributes:
        repeats: whether calls are made again, as `probe` has found out.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.repeats = False

    async def probe(self, timeout: float | None) -> None:
        """Calls State, and finds out whether calls may be repeated.

        Args:
            timeout: seconds.
        """
        token = _token()
        stream = self._channel.request(
            _STATE,
            Cardinality.UNARY_UNARY,
            api.StateRequest,
            api.StateResponse,
            timeout=timeout,
            metadata=token,
        )

        async def ask() -> None:
            async with stream:
                await stream.send_message(api.StateRequest(), end=True)
                await stream.recv_message()

        await call(ask())
        told: Mapping[str, Any] = stream.initial_metadata or {}
        self.repeats = told.get(TOKEN) == token[TOKEN]

    async def make(
        self,
        method: RepeatableMethod[_Request_contra, _Reply_co],
        request: _Request_contra,
        timeout: float | None = None,
    ) -> _Reply_co:
        """Makes a call.

        Args:
            method: which.
            request: of it.
            timeout: seconds for all of it.

        Raises:
            ShimError: what the status that came back stands for.
        """
        if not self.repeats:
            return await call(method(request, timeout=timeout, metadata=None))
        token = _token()
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        first: UnavailableError | None = None
        for _ in range(MOST_ENDS):
            left = None if end is None else end - loop.time()
            connection = self.connection()
            if left is not None and left <= 0 and first is not None:
                raise DeadlineExceededError("the shim did not answer in time") from first
            try:
                return await call(method(request, timeout=left, metadata=token))
            except UnavailableError as error:
                first = first or error
                if not await self.is_to_be_repeated(error, connection):
                    break
        assert first is not None  # noqa: S101 - the loop ends by a return, or has met an error
        raise first

    def connection(self) -> int:
        """Returns which connection there is, for what follows; each has another number."""
        return getattr(self._channel, "connections", 0)

    async def is_to_be_repeated(self, error: UnavailableError, connection: int) -> bool:
        """Returns whether a call is to be made again, at the next shim.

        Args:
            error: what the call came to.
            connection: the one that there was before.
        """
        if not self.repeats or not isinstance(error.__cause__, _ENDED):
            return False
        return not isinstance(error.__cause__, GRPCError) or await self.has_ended(connection)

    async def has_ended(self, connection: int) -> bool:
        """Waits until a shim that shuts down has ended a connection; returns whether it has.

        Args:
            connection: which.
        """
        wait_lost = getattr(self._channel, "wait_lost", None)
        if wait_lost is not None and connection == self.connection():
            try:
                await asyncio.wait_for(wait_lost(), _SHUTDOWN)
            except TimeoutError:
                return False
        return True


def _token() -> dict[str, str]:
    return {TOKEN: secrets.token_hex(16)}
