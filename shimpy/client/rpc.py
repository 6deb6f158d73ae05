"""How one call is made: in a task of its own, its failures turned into shimpy's own errors."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import Connection

from shimpy.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
    UnimplementedError,
    from_code,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

T = TypeVar("T")

# What grpclib's client makes of the reply of grpclib's server to a call that this does not serve.
_NO_SUCH_METHOD = "Missing content-type header"

# Seconds: the eight digits that a grpc-timeout has (gRPC over HTTP/2, Requests).
_LONGEST = 99_999_999


def seconds(timeout: float | None) -> float | None:
    """Returns a timeout as a call can carry it.

    Args:
        timeout: seconds; None, or more than three years: as long as it takes.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative, or not a number in IEEE 754's sense.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not timeout >= 0:  # NaN is neither
        raise ValueError(f"timeout must be >= 0, not {timeout!r}")
    return None if timeout > _LONGEST else float(timeout)


async def call(coroutine: Coroutine[Any, Any, T]) -> T:
    """Makes a call; cancelling it cancels the call.

    grpclib wakes a waiting call by cancelling its task, when its deadline passes or the connection
    goes, and never takes that back; in the caller's own task it would be taken for a cancellation
    by whatever counts them, such as `asyncio.TaskGroup`. So the call gets a task to itself.

    Raises:
        ShimError: what the status that came back stands for.
    """
    with _translated():
        return await asyncio.ensure_future(coroutine)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except GRPCError as error:
        if error.message == _NO_SUCH_METHOD:
            raise UnimplementedError("the shim does not serve this call") from error
        message = error.message or f"the shim answered {error.status.name} and gave no reason"
        raise from_code(error.status.name, message) from error
    except TimeoutError as error:  # an OSError, so it has to come before that
        raise DeadlineExceededError("the shim did not answer in time") from error
    except (StreamTerminatedError, OSError) as error:
        raise UnavailableError(f"the shim cannot be reached: {error}") from error
    except AttributeError as error:
        # What grpclib makes of a connection that is lost in the moment in which it is made.
        if not isinstance(error.obj, Connection):
            raise
        raise UnavailableError("the shim cannot be reached: connection lost") from error
    except ProtocolError as error:
        raise InternalError(f"the shim's answer made no sense: {error}") from error
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{error.object!r} cannot be sent: it is not valid Unicode") from error


async def settled(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs something to its end even if the caller is cancelled; the cancellation follows.

    For cleaning up: what is given must be sure to end.
    """
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what the caller hears of
        raise cancelled
    return task.result()
