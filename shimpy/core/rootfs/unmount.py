"""Unmounting whatever is at and below a directory, made by whom it may be.

With nothing mounted there it costs one file to read and no import, so that a command that only cleans
up is quick.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from typing import Final

_log = logging.getLogger(__name__)

# Seconds; containerd tries fifty times, with pauses of 50 ms.
_BUSY_FOR: Final = 2.5
_PAUSE: Final = 0.05


def mounted_at(path: str) -> list[str]:
    """Returns the mounts at and below a path, each after what it is mounted on (proc_pid_mountinfo(5)).

    What is mounted several times over is there as often.
    """
    # Only the directory's parents can be links; and what is mounted on it may not answer any more.
    parent, name = os.path.split(path.rstrip("/"))
    path = os.path.join(os.path.realpath(parent), name)
    with open("/proc/thread-self/mountinfo", "rb") as file:
        points = [unescape(line.split(b" ", 5)[4]) for line in file]
    return [point for point in points if point == path or point.startswith(f"{path}/")]


def unmount_all(path: str) -> None:
    """Unmounts what is mounted at and below a directory, the last first; idempotent.

    What is busy for longer than 2.5 s is detached: it disappears, and ends with its last
    use (umount2(2), MNT_DETACH). May block for as long, or for as long as a device takes: call it with
    `run_blocking`.

    Args:
        path: the directory; nothing happens where there is none.

    Raises:
        ShimError: the kernel refused.
    """
    mounted = mounted_at(path)
    deadline = time.monotonic() + _BUSY_FOR
    while mounted:
        failure: OSError | None = None
        for point in reversed(mounted):
            try:
                _unmount(point, deadline)
            except OSError as error:
                failure = error
        left = mounted_at(path)
        if len(left) >= len(mounted):
            raise _refused(left[-1], failure)
        # What another mount had covered can be reached now.
        mounted = left


def _unmount(point: str, deadline: float) -> None:
    # Not before there is something to do: it loads the C library.
    from shimpy.core.rootfs.syscalls import MNT_DETACH, UMOUNT_NOFOLLOW, unmount

    while True:
        try:
            unmount(point, UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        else:
            return
        if time.monotonic() >= deadline:
            _log.warning("%s is still in use; it is unmounted when that ends", point)
            unmount(point, UMOUNT_NOFOLLOW | MNT_DETACH)
            return
        time.sleep(_PAUSE)


def _refused(point: str, failure: OSError | None) -> Exception:
    from shimpy import errors

    return errors.from_oserror(
        failure or OSError(errno.EBUSY, "it was mounted again"), f"cannot unmount {point}"
    )


def unescape(field: bytes) -> str:
    """Returns a path as it is, of one as mountinfo has it (proc_pid_mountinfo(5))."""
    if b"\\" not in field:  # as nearly always
        return os.fsdecode(field)
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))
