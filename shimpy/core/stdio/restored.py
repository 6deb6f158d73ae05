"""What a process reads and writes that an earlier shim had started."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from shimpy.core.fd_store import FdStore, stored_name
from shimpy.core.model import Policy
from shimpy.core.stdio.fifo import Fifo, StdioHub, reopen
from shimpy.core.stdio.flows import Flows
from shimpy.core.stdio.interface import ProcessIO
from shimpy.core.stdio.output_pipe import OutputPipe
from shimpy.core.stdio.stdin_pump import StdinPump
from shimpy.core.stdio.terminal import KeptTerminal, TerminalIO, is_fifo
from shimpy.errors import FailedPreconditionError

if TYPE_CHECKING:
    from shimpy.core.reaper import Reaper
    from shimpy.core.stdio.log_program import Logger

# What `_keep` finds by the inode number of a FIFO of which a write end is kept.
_HELD: Final = "held-"


def restore_stdio(
    hub: StdioHub,
    places: Mapping[str, Any],
    policy: Policy,
    fds: dict[str, int],
    key: str,
    *,
    lives: bool,
    reaper: Reaper,
    known: Mapping[str, Any] | None = None,
) -> ProcessIO:
    """Returns what is left of what a process reads and writes.

    Args:
        hub: watches the FIFOs.
        places: the path, device and inode number of each of its streams.
        policy: how it lives.
        fds: what was stored for this shim, by name; what the process needs is taken out.
        key: by which its own were stored.
        lives: whether the process had not ended when that was last known.
        reaper: waits for the end of a log program.
        known: what `ProcessIO.hand_over` returned; None: the earlier shim was killed.

    Raises:
        OSError: no file descriptor is left.
    """
    kept = ExitStack()
    for field in ("stdout", "stderr"):
        if field in places:
            _keep(hub, places[field], fds, kept)
    master, sink = fds.pop(f"tty-{key}", -1), fds.pop(f"sink-{key}", -1)
    source, pipe, hold = (fds.pop(f"{name}-{key}", -1) for name in ("in", "pipe", "hold"))
    handed = known or {}
    logger: Logger | None = None
    if handed.get("logger"):
        from shimpy.core.stdio.log_program import Logger

        logger = Logger.handed_over(handed["logger"], fds, key, reaper)
    if master >= 0 or handed.get("terminal"):
        if known is None and lives and source >= 0 and is_fifo(source):
            hold = reopen(source, os.O_WRONLY | os.O_NONBLOCK)
        typed, shown = (base64.b64decode(handed.get(name, "")) for name in ("typed", "shown"))
        terminal = KeptTerminal(source, sink, master, hold, typed, shown, logger)
        io: ProcessIO = TerminalIO.restored(hub, policy, terminal, kept, lives=lives)
    else:
        relays = [
            OutputPipe.handed_over(each, fds, f"{key}-{number}")
            for number, each in enumerate(handed.get("relays", ()))
            if each is not None
        ]
        io = RestoredIO(hub, kept, source, pipe, hold, relays, logger)
    if hub.store is not None:
        io.store(hub.store, key)
    return io


def _keep(hub: StdioHub, place: Any, fds: dict[str, int], kept: ExitStack) -> None:
    """Keeps a FIFO that a process writes to again."""
    path, device, inode = str(place[0]), int(place[1]), int(place[2])
    reader = fds.pop(stored_name(device, inode), -1)
    writer = fds.pop(f"{_HELD}{stored_name(device, inode)}", -1)
    if (known := hub.fifos.get((device, inode))) is not None:
        known.share()
        kept.callback(known.release)
        return
    with ExitStack() as stack:
        fd = reader
        if writer >= 0:
            stack.callback(os.close, writer)
            fd = writer
        elif reader < 0:
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


def hand_over_fifos(hub: StdioHub, store: FdStore) -> None:
    """Hands over the ends of FIFOs that are kept; see `ProcessIO.hand_over`.

    Args:
        hub: keeps them.
        store: gets them.
    """
    for key, fifo in hub.fifos.items():
        name = stored_name(*key)
        store.put(name, fifo._reader)
        store.put(f"{_HELD}{name}", fifo._writer)


class RestoredIO(Flows):
    """A process without a terminal, or whose terminal ended with the shim that had it; see `ProcessIO`.

    Its output goes on: it has the other ends of its FIFOs itself, which are kept again. So does its stdin, if
    that was stored.

    Args:
        hub: watches the FIFOs.
        kept: ends what is kept of its output.
        source: the FIFO that stdin comes from, -1 if there is none.
        pipe: the pipe that the process reads it from, -1 if there is none.
        hold: keeps stdin from its end, -1 if nothing does.
        relays: pass on its output, where it goes through pipes of the shim's.
        logger: the program that reads its output, None if there is none.
    """

    fds = (-1, -1, -1)

    def __init__(
        self,
        hub: StdioHub,
        kept: ExitStack,
        source: int,
        pipe: int,
        hold: int = -1,
        relays: Sequence[OutputPipe] = (),
        logger: Logger | None = None,
    ) -> None:
        super().__init__(kept)
        self._relays += relays
        self._logger = logger
        for relay in relays:
            self._kept.callback(relay.stop)
        if source >= 0 and pipe >= 0:
            self._pump = StdinPump(hub, source, pipe)
            self._kept.callback(self._pump.stop)
            if hold >= 0:
                self._pump.hold(hold)
            self._pump.start()
        else:
            for fd in (source, pipe, hold):
                if fd >= 0:
                    os.close(fd)

    async def prepare(self) -> None:
        """See `ProcessIO.prepare`; that was done."""

    async def attach(self) -> None:
        """See `ProcessIO.attach`; that was done."""

    def resize(self, width: int, height: int) -> None:
        """See `ProcessIO.resize`."""
        raise FailedPreconditionError("the process has no terminal, or that ended with an earlier shim")
