"""One call that is under way on a connection of the server."""

from __future__ import annotations

import asyncio
import logging
import time

from shimpy.errors import ShimError
from shimpy.transport.methods import Method
from shimpy.transport.protobuf import decode, encode
from shimpy.transport.ttrpc import codes
from shimpy.transport.ttrpc.envelope import Request, Response

_log = logging.getLogger("shimpy.rpc")


class TtrpcCall:
    """A call that is under way.

    Attributes:
        name: of service and method, for the log.
        task: what serves it.
        request: what was asked, of a method that is repeatable; else None.
    """

    __slots__ = ("_cancelled", "expiry", "held", "name", "request", "started", "stream", "task", "verdict")

    task: asyncio.Task[bytes]

    def __init__(self, stream: int, name: str, held: int) -> None:
        self.stream = stream
        self.name = name
        self.held = held
        self.request: Request | None = None
        self.started = time.monotonic()
        self.expiry: asyncio.TimerHandle | None = None
        self.verdict: Response | None = None
        self._cancelled = False

    def end(self, code: str, message: str) -> None:
        """Breaks the call off and tells its client why."""
        if not self._cancelled:
            self.verdict = Response(code=codes.number_of(code), message=message)
        self.cancel()

    def cancel(self) -> None:
        """Breaks the call off.

        Once: a deadline is often followed by the client's end, and a method that is undoing what it did must
        not be torn out of that.
        """
        if not self._cancelled:
            self._cancelled = True
            self.task.cancel()


async def serve(method: Method, payload: bytes) -> bytes:
    """Calls a method, and returns the encoded reply.

    Args:
        method: which.
        payload: the encoded request.

    Raises:
        ShimError: the request is malformed, or the method refused.
    """
    request = decode(method.request, payload)
    del payload  # it may be long, and so may the call
    return encode(await method.handler(request))


def outcome_of(call: TtrpcCall) -> Response:
    """Returns how a call has ended."""
    if call.task.cancelled():
        if call.verdict is not None:
            return call.verdict
        return Response(code=codes.number_of("CANCELLED"), message="the call was cancelled")
    error = call.task.exception()
    if error is None:
        return Response(call.task.result())
    if isinstance(error, ShimError):
        return Response(code=codes.number_of(error.code), message=str(error))
    _log.error("%s failed", call.name, exc_info=error)
    return Response(code=codes.number_of("INTERNAL"), message="shimpy failed; its log has the details")
