"""The time that a command has."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shimpy.client.rpc import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

# Seconds beyond its time that a command has to be started; what is given up on has them too.
STARTING_GRACE = 5.0


class Deadline:
    """The moment when a command's time is up.

    Args:
        timeout: seconds from now; None: never.

    Raises:
        TypeError: *timeout* is not a number.
        ValueError: it is negative or NaN.

    Attributes:
        at: that moment, on the event loop's clock; None: never.
    """

    def __init__(self, timeout: float | None) -> None:
        left = seconds(timeout)
        self.at = None if left is None else asyncio.get_running_loop().time() + left

    def put_off(self, waited: float) -> None:
        """Counts a time that is not the command's, in seconds, as not having passed."""
        if self.at is not None:
            self.at += waited

    def monotonic(self) -> float | None:
        """Returns the moment on the machine's clock, time.monotonic(); None: never."""
        if self.at is None:
            return None
        return time.monotonic() + self.at - asyncio.get_running_loop().time()

    def left_to_start(self) -> float | None:
        """Returns the seconds that there are until the command has to have been started."""
        if self.at is None:
            return None
        return max(0, self.at + STARTING_GRACE - asyncio.get_running_loop().time())


@asynccontextmanager
async def in_turn(
    turn: AbstractAsyncContextManager[object], deadline: Deadline | None
) -> AsyncIterator[None]:
    """Waits until it is the command's turn, and holds it for the time of the block.

    Args:
        turn: as `run.turn` returns it.
        deadline: that of the command, which the time that is waited does not bring nearer.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with turn:
        if deadline is not None:
            deadline.put_off(loop.time() - began)
        yield


def check_output_limit(limit: object, name: str = "output_limit") -> None:
    """Refuses what is not a number of bytes, or None.

    Args:
        limit: what was given.
        name: of the argument.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative.
    """
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"{name} must be an int, not {limit!r}")
    if limit < 0:
        raise ValueError(f"{name} must be >= 0, not {limit}")
