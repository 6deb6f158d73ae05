"""The two directions between a terminal's master and the streams of the request."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from shimpy.core.stdio.watcher import Watcher

if TYPE_CHECKING:
    from shimpy.core.hooks.tap import Tap

# The kernel gives at most 4 KiB for one read of a master. Several are written as one, which is
# cheaper than splice(2) would be here; what is more than this waits for the next turn of the event
# loop, so that a flood does not starve the rest.
_OUTPUT_BUFFER: Final = 65536
_INPUT_CHUNK: Final = 4096
_INPUT_CHUNKS_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


class FileDescriptor:
    """A file descriptor that is closed once, by its first user to do so."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class OutputRelay:
    """Moves what a terminal shows to where it is wanted; reads no further while that is full.

    Args:
        watcher: watches the master.
        master: not blocking.
        slave: held, and closed when the process has exited and all that it wrote was read.
        sink: not blocking; closed when no process has the terminal open any more.
        ends_at_exit: the sink is closed when the process has exited, even if others have the terminal open.
        tap: gets a copy of the output; None for nobody.

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

    def process_exited(self) -> None:
        """From now on an end of the output is the end."""
        self._exited = True
        self._schedule()

    def end(self) -> None:
        """Reads what is there, and then no more: the master may be closed. What was read is passed on."""
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
                self._loop.add_writer(self._sink.fd, self._turn)
                self._waiting = True
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


class InputRelay:
    """Types what comes from a stream on a terminal; reads no further while that takes no more.

    The end of a stream is not passed on: a terminal has none.

    Args:
        source: not blocking; closed at its end.
        master: not blocking.
        on_end: called at its end, or when the terminal takes no more.
    """

    def __init__(
        self, source: FileDescriptor, master: int, on_end: Callable[[], object] = lambda: None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._master = master
        self._on_end = on_end
        self._pending = b""
        self._stop_waiting: Callable[[], object] | None = None

    def start(self) -> None:
        """Begins."""
        self._wait_for_source()

    def stop(self) -> None:
        """Ends it at once; idempotent."""
        if self._stop_waiting is not None:
            self._stop_waiting()
            self._stop_waiting = None

    def _wait_for_source(self) -> None:
        self.stop()
        fd = self._source.fd
        try:
            self._loop.add_reader(fd, self._turn)
        except PermissionError:
            # A regular file, or a device that never waits (epoll_ctl(2)).
            self._wait_for_master()
        else:
            self._stop_waiting = lambda: self._loop.remove_reader(fd)

    def _wait_for_master(self) -> None:
        self.stop()
        self._loop.add_writer(self._master, self._turn)
        self._stop_waiting = lambda: self._loop.remove_writer(self._master)

    def _turn(self) -> None:
        try:
            for _ in range(_INPUT_CHUNKS_AT_ONCE):
                if not self._pending:
                    try:
                        self._pending = os.read(self._source.fd, _INPUT_CHUNK)
                    except BlockingIOError:
                        self._wait_for_source()
                        return
                    if not self._pending:
                        break
                try:
                    self._pending = self._pending[os.write(self._master, self._pending) :]
                except BlockingIOError:
                    self._wait_for_master()
                    return
            else:
                self._wait_for_source()
                return
        except OSError as error:
            _log.warning("the input of a terminal ends: %s", error)
        self.stop()
        self._source.close()
        self._on_end()
