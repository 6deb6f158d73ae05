"""What a process reads and writes that an earlier shim had started."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from shimpy.core.model import StdioPaths
from shimpy.core.stdio.fifo import Fifo, StdioHub
from shimpy.core.stdio.interface import ProcessIO
from shimpy.errors import FailedPreconditionError


def restore_stdio(
    hub: StdioHub, stdio: StdioPaths, places: Mapping[str, Any], fds: dict[str, int], *, lives: bool
) -> ProcessIO:
    """Returns what is left of what a process reads and writes.

    Args:
        hub: watches the FIFOs.
        stdio: what its client has named.
        places: the path, device and inode number of each.
        fds: what was stored for this shim, by name; what the process needs is taken out.
        lives: whether the process had not ended when that was last known.
    """
    del stdio, fds, lives
    return RestoredIO(hub, places)


class RestoredIO:
    """A process whose stdin and terminal ended with the shim that had them; see `ProcessIO`.

    Its output goes on: it has the other ends of its FIFOs itself, which are kept again.

    Args:
        hub: watches the FIFOs.
        places: the path, device and inode number of each stream.
    """

    fds = (-1, -1, -1)
    console_socket: str | None = None

    def __init__(self, hub: StdioHub, places: Mapping[str, Any]) -> None:
        self._kept = ExitStack()
        for field in ("stdout", "stderr"):
            if field in places:
                self._keep(hub, places[field])

    def _keep(self, hub: StdioHub, place: Any) -> None:
        path, device, inode = str(place[0]), int(place[1]), int(place[2])
        with contextlib.suppress(OSError), ExitStack() as stack:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            status = os.fstat(fd)
            if stat.S_ISFIFO(status.st_mode) and (status.st_dev, status.st_ino) == (device, inode):
                fifo = Fifo.keep(hub, fd)
                self._kept.callback(fifo.release)
                # From now on the last of its writers is noticed, also if they have all left already.
                os.close(fifo.open_writer(os.O_NONBLOCK))

    async def prepare(self) -> None:
        """See `ProcessIO.prepare`; that was done."""

    async def attach(self) -> None:
        """See `ProcessIO.attach`; that was done."""

    def resize(self, width: int, height: int) -> None:
        """See `ProcessIO.resize`."""
        raise FailedPreconditionError("the process has no terminal, or that ended with an earlier shim")

    def close_stdin(self) -> None:
        """See `ProcessIO.close_stdin`; it ended with the shim before this one."""

    def process_exited(self) -> None:
        """See `ProcessIO.process_exited`."""

    async def drain(self, timeout: float) -> None:
        """See `ProcessIO.drain`; nothing is relayed."""

    async def finish(self) -> None:
        """See `ProcessIO.finish`."""

    def close(self) -> None:
        """See `ProcessIO.close`."""
        self._kept.close()
