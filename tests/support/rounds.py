"""One knob for how much a test does: the environment variable `SHIMPY_ROUNDS`."""

from __future__ import annotations

import os

# Whether this is `make stress`.
FULL = os.environ.get("SHIMPY_ROUNDS") == "full"


def rounds(short: int, full: int) -> int:
    """Returns how often to do what a test does: *short* in `make test`, *full* in `make stress`."""
    return full if FULL else short
