"""What a process reads and writes that an earlier shim had started."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from shimpy.core.fd_store import FdStore, stored_name
from shimpy.core.model import Policy
from shimpy.core.stdio.fifo import Fifo, StdioHub
from shimpy.core.stdio.interface import ProcessIO
from shimpy.core.stdio.stdin_pump import StdinPump
from shimpy.core.stdio.terminal import TerminalFds, TerminalIO
from shimpy.errors import FailedPreconditionError


def restore_stdio(
    hub: StdioHub,
    places: Mapping[str, Any],
    policy: Policy,
    fds: dict[str, int],
    key: str,
    *,
    lives: bool,
) -> ProcessIO:
    """Returns what is left of what a process reads and writes.

    Args:
        hub: watches the FIFOs.
        places: the path, device and inode number of each of its streams.
        policy: how it lives.
        fds: what was stored for this shim, by name; what the process needs is taken out.
        key: by which its own were stored.
        lives: whether the process had not ended when that was last known.

    Raises:
        OSError: no file descriptor is left.
    """
    kept = ExitStack()
    for field in ("stdout", "stderr"):
        if field in places:
            _keep(hub, places[field], fds, kept)
    master, sink = fds.pop(f"tty-{key}", -1), fds.pop(f"sink-{key}", -1)
    source, pipe = fds.pop(f"in-{key}", -1), fds.pop(f"pipe-{key}", -1)
    if master >= 0:
        io: ProcessIO = TerminalIO.restored(hub, policy, TerminalFds(master, source, sink), kept, lives=lives)
    else:
        io = RestoredIO(hub, kept, source, pipe)
    if hub.store is not None:
        io.store(hub.store, key)
    return io


def _keep(hub: StdioHub, place: Any, fds: dict[str, int], kept: ExitStack) -> None:
    """Keeps a FIFO that a process writes to again."""
    path, device, inode = str(place[0]), int(place[1]), int(place[2])
    reader = fds.pop(stored_name(device, inode), -1)
    if (known := hub.fifos.get((device, inode))) is not None:
        known.share()
        kept.callback(known.release)
        return
    with ExitStack() as stack:
        fd = reader
        if reader < 0:
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                return  # its clients have removed it, and nobody can come any more
            else:
                stack.callback(os.close, fd)
                status = os.fstat(fd)
                if not stat.S_ISFIFO(status.st_mode) or (status.st_dev, status.st_ino) != (device, inode):
                    return
        fifo = Fifo.keep(hub, fd, reader)
        kept.callback(fifo.release)
        # From now on the last of its writers is noticed, also if they have all left already.
        os.close(fifo.open_writer(os.O_NONBLOCK))


class RestoredIO:
    """A process without a terminal, or whose terminal ended with the shim that had it; see `ProcessIO`.

    Its output goes on: it has the other ends of its FIFOs itself, which are kept again. So does its stdin, if
    that was stored.

    Args:
        hub: watches the FIFOs.
        kept: ends what is kept of its output.
        source: the FIFO that stdin comes from, -1 if there is none.
        pipe: the pipe that the process reads it from, -1 if there is none.
    """

    fds = (-1, -1, -1)
    console_socket: str | None = None

    def __init__(self, hub: StdioHub, kept: ExitStack, source: int, pipe: int) -> None:
        self._kept = kept
        self._pump: StdinPump | None = None
        if source >= 0 and pipe >= 0:
            self._pump = StdinPump(hub, source, pipe)
            self._kept.callback(self._pump.stop)
            self._pump.start()
        else:
            for fd in (source, pipe):
                if fd >= 0:
                    os.close(fd)

    async def prepare(self) -> None:
        """See `ProcessIO.prepare`; that was done."""

    async def attach(self) -> None:
        """See `ProcessIO.attach`; that was done."""

    def resize(self, width: int, height: int) -> None:
        """See `ProcessIO.resize`."""
        raise FailedPreconditionError("the process has no terminal, or that ended with an earlier shim")

    def close_stdin(self) -> None:
        """See `ProcessIO.close_stdin`."""
        if self._pump is not None:
            self._pump.release_hold()

    def store(self, store: FdStore, key: str) -> None:
        """See `ProcessIO.store`."""
        if self._pump is not None:
            self._pump.store(store, key)

    def process_exited(self) -> None:
        """See `ProcessIO.process_exited`."""
        if self._pump is not None:
            self._pump.stop()

    async def drain(self, timeout: float) -> None:
        """See `ProcessIO.drain`; nothing is relayed."""

    async def finish(self) -> None:
        """See `ProcessIO.finish`."""

    def close(self) -> None:
        """See `ProcessIO.close`."""
        self._kept.close()
