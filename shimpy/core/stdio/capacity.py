"""How much a pipe takes before its writer has to wait."""

from __future__ import annotations

import contextlib
import fcntl
from typing import Final

# In bytes: what an unprivileged process may have at most (pipe(7)).
MOST: Final = 1 << 20


def enlarge(pipe: int) -> None:
    """Has a pipe or FIFO take as much as it may; it stays as it is if its user has many that are large.

    Args:
        pipe: a file descriptor of either end.
    """
    with contextlib.suppress(OSError):
        if fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) < MOST:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MOST)
