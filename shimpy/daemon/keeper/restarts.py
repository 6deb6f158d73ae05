"""When a shim that has died is started again, and when no more."""

from __future__ import annotations

import time

# Starts in a row that may fail: the shim ended before it was ready. With the pauses that is 16 seconds.
MOST_FAILURES = 10

# Seconds to wait after the second failure, doubled with each one more, up to the longest.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0

# Shims that were ready may die so often within so many seconds and be started again at once; then it is one
# for each second, so that one that dies of every call does not keep a processor busy.
_BURST = 30
_PERIOD = 60.0
_SLOW = 1.0


class Restarts:
    """Counts deaths."""

    def __init__(self) -> None:
        self._failures = 0
        self._deaths: list[float] = []

    def ready(self) -> None:
        """Notes that a shim is ready."""
        self._failures = 0

    def forgive(self) -> None:
        """Begins anew."""
        self._failures = 0
        self._deaths.clear()

    def died(self, *, ready: bool) -> float | None:
        """Notes a death.

        Args:
            ready: whether the shim was ready.

        Returns:
            Seconds until it is started again; None: it has failed too often.
        """
        if ready:
            now = time.monotonic()
            self._deaths = [*(at for at in self._deaths if at > now - _PERIOD), now]
            return _SLOW if len(self._deaths) > _BURST else 0.0
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            return None
        return 0.0 if self._failures == 1 else min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self._failures - 2))
