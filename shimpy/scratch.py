"""Private folders for what lives as long as one call: sockets, pid files, logs."""

from __future__ import annotations

import contextlib
import os

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - what is made there is a folder that nobody else may enter


def make_folder() -> str:
    """Makes a folder that nobody else may enter, for the caller to remove.

    It is made in TMPDIR where that is set, else in memory: on a disk that is written to, making and
    removing a few small files takes longer than the call that needs them.

    Raises:
        OSError: there is no room, or no place that may be written to.
    """
    path = os.path.join(place(), f"shimpy-{os.urandom(8).hex()}")
    os.mkdir(path, 0o700)
    return path


def remove_folder(path: str) -> None:
    """Removes such a folder and the files in it, as far as they are there and may be removed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)


def place() -> str:
    """Returns the folder in which `make_folder` makes its folders."""
    if "TMPDIR" not in os.environ and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        return _SHARED_MEMORY
    import tempfile

    return tempfile.gettempdir()
