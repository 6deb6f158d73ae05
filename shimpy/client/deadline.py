"""The time that a command has."""

from __future__ import annotations

import asyncio
import time

from shimpy.client.rpc import seconds

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
