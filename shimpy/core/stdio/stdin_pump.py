"""The pump between a FIFO and the stdin of a process, which waits for a writer instead of reading EOF."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import select
from typing import Final

from shimpy.core.fd_store import FdStore, nothing, stored
from shimpy.core.stdio.fifo import StdioHub, poll

# In bytes. What the pump has moved is lost to others if the process exits without reading it. One
# page keeps that small; it costs speed, which for what is typed or piped in does not matter.
_PIPE_SIZE: Final = 4096
_SPLICES_AT_ONCE: Final = 16
_SPLICE_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

_log = logging.getLogger(__name__)


class StdinPump:
    """Moves what is written to a FIFO into a pipe, as fast as the process takes it.

    The process reads EOF once writers have come and the last one has closed; that is final. When
    it closes its end itself or exits, the FIFO is closed, so that writers get EPIPE. At most one
    page is then taken from the FIFO and not read.

    Args:
        hub: watches the process's end.
        fifo: the FIFO, open for reading and not blocking; the pump's own from now on.
        pipe: the end of a pipe that the process has already, likewise; -1: there is none.

    Attributes:
        child: the end that the process reads, the caller's to close; -1 if it has it already.
    """

    def __init__(self, hub: StdioHub, fifo: int, pipe: int = -1) -> None:
        self._hub = hub
        self._fifo = fifo
        self._hold = -1
        self._loop = asyncio.get_running_loop()
        self._forget = nothing
        self.child, self._pipe = -1, pipe
        if pipe < 0:
            try:
                self.child, self._pipe = os.pipe2(os.O_CLOEXEC)
            except OSError:
                os.close(fifo)
                raise
            # The two ends have a file description each: this leaves the process's end blocking.
            os.set_blocking(self._pipe, False)
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        try:
            hub.watch(self._pipe, 0, self._process_let_go)
        except OSError:
            self.stop()
            if self.child >= 0:
                os.close(self.child)
            raise

    def start(self) -> None:
        """Begins, once only the process has the other end."""
        # A FIFO that no writer has opened yet is not ready, unlike one whose writers have left.
        if self._fifo >= 0:
            self._loop.add_reader(self._fifo, self._move)

    def store(self, store: FdStore, key: str) -> None:
        """See `ProcessIO.store`."""
        if self._fifo >= 0:
            self._forget = stored(store, {f"in-{key}": self._fifo, f"pipe-{key}": self._pipe})

    def hand_over(self, store: FdStore, key: str) -> None:
        """See `ProcessIO.hand_over`."""
        if self._fifo >= 0:
            store.put(f"in-{key}", self._fifo)
            store.put(f"pipe-{key}", self._pipe)
            if self._hold >= 0:
                store.put(f"hold-{key}", self._hold)

    def hold(self, writer: int) -> None:
        """Keeps the FIFO from its end when its writers leave, until `release_hold`.

        Args:
            writer: a write end of it; the pump's own from now on.
        """
        self._hold = writer

    def release_hold(self) -> None:
        """Leaves the FIFO to its other writers: EOF comes with the last of them. Idempotent."""
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1

    def stop(self) -> None:
        """Ends it: the process reads EOF, writers get EPIPE. Idempotent."""
        self.release_hold()
        if self._fifo < 0:
            return
        self._loop.remove_reader(self._fifo)
        self._loop.remove_writer(self._pipe)
        self._hub.unwatch(self._pipe)
        os.close(self._fifo)
        os.close(self._pipe)
        # As long as a copy is stored, the process does not read EOF.
        self._forget()
        self._fifo = self._pipe = -1

    def _process_let_go(self, _events: int) -> None:
        if poll(self._pipe) & select.POLLERR:
            self.stop()

    def _move(self) -> None:
        for _ in range(_SPLICES_AT_ONCE):
            try:
                moved = os.splice(self._fifo, self._pipe, 65536, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                self._wait()
                return
            except OSError as error:
                if error.errno != errno.EPIPE:
                    _log.warning("the stdin of a process ends: %s", error)
                moved = 0
            if moved == 0:
                self.stop()
                return

    def _wait(self) -> None:
        """Waits for the side that is in the way, and for that only: the other may be ready."""
        if poll(self._pipe, select.POLLOUT):
            self._loop.remove_writer(self._pipe)
            self._loop.add_reader(self._fifo, self._move)
        else:
            self._loop.remove_reader(self._fifo)
            self._loop.add_writer(self._pipe, self._move)
