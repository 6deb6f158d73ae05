"""What stands for a channel where the shim is in this process: its methods are called, and nothing is sent.

HTTP/2 in memory would be a third of what shimpy itself takes for a one-shot.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from shimpy import api
from shimpy.errors import InternalError, ShimError
from shimpy.transport.protobuf import decode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    from grpclib.client import Channel

    from shimpy.services.shim_v1 import Shim
    from shimpy.services.shim_v1.events import ShimEventStream

_log = logging.getLogger(__name__)

_EVENTS = "/containerd.shim.v1.Shim/Events"


class DirectChannel:
    """As much of a grpclib channel as `ShimCalls` and `EventStream` use.

    Args:
        shim: whose methods are called.
    """

    def __init__(self, shim: Shim) -> None:
        self._shim = shim
        self._handlers = api.ShimBase.__mapping__(shim)
        self._calls: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __enter__(self) -> Channel:
        return cast("Channel", self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what is under way; from now on every call fails."""
        self._closed = True
        for task in self._calls:
            task.cancel()

    def request(
        self,
        name: str,
        _cardinality: object,
        request_type: type[Any],
        _reply_type: object,
        *,
        timeout: float | None = None,
        **_: object,
    ) -> _DirectStream:
        """Begins a call; see grpclib.client.Channel.request."""
        return _DirectStream(self, name, request_type, timeout)

    def subscribe(self, request: api.EventsRequest) -> ShimEventStream:
        """Subscribes to the shim's events.

        Raises:
            ConnectionError: the channel was closed.
        """
        self._check_open()
        return self._shim.subscribe_events(request)

    async def call(self, name: str, request: Any) -> Any:
        """Calls a method of the shim and returns its reply.

        Raises:
            ShimError: as the method raised it, or INTERNAL for what it should not have.
            ConnectionError: the channel was closed.
        """
        self._check_open()
        exchange = _Exchange(request)
        task = asyncio.ensure_future(_answer(name, self._handlers[name].func, exchange))
        self._calls.add(task)
        try:
            await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._closed and not (caller is not None and caller.cancelling()):
                raise ConnectionError("the client's block has ended") from None
            raise
        finally:
            self._calls.discard(task)
        return exchange.reply

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionError("the client's block has ended")


class _Exchange:
    """The request of a call and its reply, as generated code takes and gives them."""

    def __init__(self, request: object) -> None:
        self.reply: Any = None
        self._request = request

    async def recv_message(self) -> object:
        return self._request

    async def send_message(self, reply: object) -> None:
        self.reply = reply


async def _answer(name: str, func: Callable[[Any], Awaitable[None]], exchange: _Exchange) -> None:
    """Has a method answer, with every way out of it turned into an error of ours, as over a socket."""
    try:
        await func(exchange)
    except ShimError:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        _log.exception("%s was cancelled from within", name)
        raise InternalError("the call was broken off within shimpy") from None
    except Exception as error:
        _log.exception("%s failed", name)
        raise InternalError("shimpy failed; its log has the details") from error


class _DirectStream:
    """One call, with what grpclib's stream of it has."""

    initial_metadata = None

    def __init__(
        self, channel: DirectChannel, name: str, request_type: type[Any], timeout: float | None
    ) -> None:
        self._channel = channel
        self._name = name
        self._request_type = request_type
        self._timeout = timeout
        self._request: Any = None
        self._replies: ShimEventStream | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._replies is not None:
            await self._replies.aclose()

    async def send_message(self, request: Any, *, end: bool = False) -> None:
        """Takes the request, as the shim would read it: with its limits, and apart from the caller's."""
        del end
        self._request = decode(self._request_type, bytes(request))

    async def recv_initial_metadata(self) -> None:
        """Subscribes."""
        self._replies = self._channel.subscribe(self._request)

    async def recv_message(self) -> Any:
        """Returns the reply, or the next one; None when there are no more."""
        if self._replies is not None:
            return await anext(self._replies, None)
        async with asyncio.timeout(self._timeout):
            return await self._channel.call(self._name, self._request)

    async def recv_trailing_metadata(self) -> None:
        """Does nothing: what went wrong has been raised."""
