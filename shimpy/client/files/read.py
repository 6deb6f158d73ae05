"""Reads one file of a tree."""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import TYPE_CHECKING

from shimpy.client.files.tree import called, check_kept
from shimpy.errors import CanceledError, InvalidArgumentError, ResourceExhaustedError

if TYPE_CHECKING:
    from threading import Event

    from shimpy.client.files.tree import FileTree

# Bytes between two looks at whether to go on.
_PIECE = 1 << 20


def read(tree: FileTree, path: str, limit: int | None, stop: Event) -> bytes:
    """Returns what is in a file.

    Args:
        tree: where it is.
        path: names it; links are followed.
        limit: bytes that it may have; None: any number.
        stop: is set when this is to end early.

    Raises:
        OSError: it cannot be read.
        ShimError: it is not a file, is the kernel's, is larger, or this was to end early.
    """
    fd = tree.open(path, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgumentError(f"read_file: {path} is not a file")
        check_kept(fd, f"read_file: {path}")
        # The same file that was looked at, whatever its name means by now.
        with called(None), open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:
            pieces = []
            left = sys.maxsize if limit is None else limit + 1
            while piece := file.read(min(left, _PIECE)):
                if stop.is_set():
                    raise CanceledError(os.strerror(errno.ECANCELED))
                pieces.append(piece)
                left -= len(piece)
    finally:
        os.close(fd)
    if not left:
        raise ResourceExhaustedError(f"read_file: {path} has more than {limit} bytes")
    return b"".join(pieces)
