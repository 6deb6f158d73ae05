"""The clock of the event loop, for tests of what happens at a certain time."""

from __future__ import annotations

import asyncio


def leap(seconds: float) -> None:
    """Puts the clock of the running loop forward, for good: what would be due by then is due now.

    So a test can first wait for what it is about, however slow the machine is, and then let the time be up.
    """
    loop = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + seconds  # type: ignore[method-assign]
