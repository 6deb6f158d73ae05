"""One knob for how long a test waits: the environment variable `SHIMPY_TIME_SCALE`."""

from __future__ import annotations

import os

# How many times slower than a common machine this one is; an emulated one is some ten times slower.
SCALE = float(os.environ.get("SHIMPY_TIME_SCALE", "1"))


def scaled(seconds: float) -> float:
    """Returns for how long to wait here for what takes less than *seconds* on a common machine."""
    return seconds * SCALE
