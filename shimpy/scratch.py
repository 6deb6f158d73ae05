"""Private folders for what lives as long as one call: sockets, pid files, logs."""

from __future__ import annotations

import os
import tempfile

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - what is made there is a folder that nobody else may enter


def make_folder() -> str:
    """Makes a folder that nobody else may enter, for the caller to remove.

    It is made in TMPDIR where that is set, else in memory: on a disk that is written to, making and
    removing a few small files takes longer than the call that needs them.

    Raises:
        OSError: there is no room, or no place that may be written to.
    """
    return tempfile.mkdtemp(prefix="shimpy-", dir=place())


def place() -> str:
    """Returns the folder in which `make_folder` makes its folders."""
    if "TMPDIR" not in os.environ and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        return _SHARED_MEMORY
    return tempfile.gettempdir()
