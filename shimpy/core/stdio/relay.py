"""From a terminal's master to where what it shows is wanted."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
from typing import TYPE_CHECKING, Final

from shimpy.core.stdio.capacity import enlarge
from shimpy.core.stdio.fifo import poll
from shimpy.core.stdio.input_relay import FileDescriptor
from shimpy.core.stdio.watcher import Watcher

if TYPE_CHECKING:
    from shimpy.core.hooks.tap import Tap

# The kernel gives at most 4 KiB for one read of a master. Several are written as one, which is
# cheaper than splice(2) would be here; what is more than this waits for the next turn of the event
# loop, so that a flood does not starve the rest.
_OUTPUT_BUFFER: Final = 65536

_SPLICES_AT_ONCE: Final = 16
_SPLICE_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

_log = logging.getLogger(__name__)


class OutputRelay:
    """Moves what a terminal shows to where it is wanted; reads no further while that is full.

    Args:
        watcher: watches the master.
        master: not blocking.
        slave: held, and closed when the process has exited and all that it wrote was read.
        sink: not blocking; closed when no process has the terminal open any more.
        ends_at_exit: the sink is closed when the process has exited, even if others have the terminal open.
        tap: gets a copy of the output; None for nobody.
        splices: the sink is a FIFO, and no byte may be in this process, which may be killed.

    Attributes:
        drained: the process has exited, and all that it wrote has been passed on.
    """

    def __init__(
        self,
        watcher: Watcher,
        master: int,
        slave: FileDescriptor,
        sink: FileDescriptor,
        *,
        ends_at_exit: bool = False,
        tap: Tap | None = None,
        splices: bool = False,
    ) -> None:
        self.drained = asyncio.Event()
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self._master = master
        self._slave = slave
        self._sink = sink
        self._ends_at_exit = ends_at_exit
        self._tap = tap
        self._waits_for_tap = False
        self._splices = splices
        if splices:
            # Each splice(2) takes a page of it, however little it moves.
            enlarge(sink.fd)
        self._buffer = memoryview(bytearray(_OUTPUT_BUFFER))
        self._begin = self._end = 0
        self._exited = False
        self._waiting = False
        self._next: asyncio.Handle | None = None

    def start(self) -> None:
        """Begins."""
        # By edges: nothing has to be switched off while the sink is full, and a terminal that
        # children keep open after a hang-up costs nothing.
        self._watcher.watch(self._master, select.EPOLLIN | select.EPOLLET, self._woken)

    def begin_with(self, shown: bytes) -> None:
        """Has it pass on something before all that is to come; called before `start`."""
        if shown:
            self._end = len(shown)
            self._buffer[: self._end] = shown
            self._schedule()

    @property
    def slave(self) -> int:
        """The file descriptor that is held of the slave, -1 if it is closed."""
        return self._slave.fd

    @property
    def pending(self) -> bytes:
        """What it has read and not passed on yet."""
        return bytes(self._buffer[self._begin : self._end])

    def process_exited(self) -> None:
        """From now on an end of the output is the end."""
        self._exited = True
        self._schedule()

    def end(self) -> None:
        """Reads what is there, and then no more: the master may be closed. What was read is passed on."""
        self._splices = False
        if not self._waiting:
            self._flush()
        # What the sink did not take makes room at its end for what else there is.
        rest = self._end - self._begin
        self._buffer[:rest] = bytes(self._buffer[self._begin : self._end])
        self._begin, self._end = 0, rest
        self._fill()
        self._watcher.unwatch(self._master)
        self._master = -1  # of which a read fails
        self._exited = True
        if not self._waiting:
            self._schedule()

    def stop(self) -> None:
        """Ends it at once; idempotent."""
        self._watcher.unwatch(self._master)
        self._stop_waiting()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self.drained.set()

    def _woken(self, _events: int) -> None:
        if not self._waiting and self._next is None:
            self._turn()

    def _schedule(self) -> None:
        if self._next is None:
            self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._next = None
        if self._splices:
            self._splice()
            return
        if not self._flush():
            return
        if self._tap is not None and self._tap.is_full:
            if not self._waits_for_tap:
                self._waits_for_tap = True
                self._tap.on_room(self._resume)
            return
        error = self._fill()
        if not self._flush():
            return
        if error == 0:
            self._schedule()
        elif self._exited:
            self._emptied(error)

    def _splice(self) -> None:
        """Moves what is there without having it."""
        self._stop_waiting()
        for _ in range(_SPLICES_AT_ONCE):
            try:
                moved = os.splice(self._master, self._sink.fd, _OUTPUT_BUFFER, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                if poll(self._sink.fd, select.POLLOUT) & select.POLLOUT:
                    self._end_of_output(errno.EAGAIN)
                else:
                    self._wait_for_sink()
                return
            except OSError as error:
                if error.errno == errno.EPIPE:
                    _log.warning("the output of a terminal is dropped: %s", error)
                    self._sink.close()
                    self._splices = False
                    self._schedule()
                else:
                    self._end_of_output(error.errno or errno.EIO)
                return
            if moved == 0:
                self._end_of_output(errno.EIO)
                return
        self._schedule()

    def _end_of_output(self, error: int) -> None:
        if self._exited:
            self._emptied(error)
        if self._sink.fd < 0:
            self._splices = False

    def _wait_for_sink(self) -> None:
        self._loop.add_writer(self._sink.fd, self._turn)
        self._waiting = True

    def _resume(self) -> None:
        self._waits_for_tap = False
        self._schedule()

    def _fill(self) -> int:
        """Reads until the buffer is full, 0, or nothing is there; returns the error then."""
        begin = self._end
        error = self._read_all()
        if self._tap is not None and self._end > begin:
            self._tap.write("stdout", bytes(self._buffer[begin : self._end]))
        return error

    def _read_all(self) -> int:
        while self._end < _OUTPUT_BUFFER:
            try:
                count = os.readv(self._master, [self._buffer[self._end :]])
            except OSError as error:
                return error.errno or errno.EIO
            if count == 0:
                return errno.EIO
            self._end += count
        return 0

    def _emptied(self, error: int) -> None:
        """The process has exited, and all that it wrote has been passed on.

        EAGAIN is to be believed: the kernel moves what is on its way before it says so.
        """
        self.drained.set()
        if self._slave.fd >= 0:
            self._slave.close()
            self._schedule()
        elif error != errno.EAGAIN or self._ends_at_exit:
            self._sink.close()
            # A process may still find the terminal by its name, and open and close it in a loop.
            self._watcher.unwatch(self._master)

    def _flush(self) -> bool:
        """Writes what was read; False if the rest has to wait."""
        self._stop_waiting()
        while self._begin < self._end and self._sink.fd >= 0:
            try:
                self._begin += os.write(self._sink.fd, self._buffer[self._begin : self._end])
            except BlockingIOError:
                self._wait_for_sink()
                return False
            except OSError as error:
                _log.warning("the output of a terminal is dropped: %s", error)
                self._sink.close()
        self._begin = self._end = 0
        return True

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._loop.remove_writer(self._sink.fd)
            self._waiting = False
