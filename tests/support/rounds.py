"""One knob for how much a test does: the environment variable ``SHIMPY_ROUNDS``."""

from __future__ import annotations

import os

FULL = os.environ.get("SHIMPY_ROUNDS") == "full"
"""Whether this is ``make stress``."""


def rounds(short: int, full: int) -> int:
    """Returns how often to do what a test does: *short* in ``make test``, *full* in ``make stress``."""
    return full if FULL else short
