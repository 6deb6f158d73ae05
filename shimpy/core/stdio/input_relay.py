"""From the stream that is typed on a terminal to its master."""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable
from typing import Final

from shimpy.core.fd_store import FdStore, nothing, stored
from shimpy.core.stdio.fifo import poll

_INPUT_CHUNK: Final = 4096
_INPUT_CHUNKS_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


class FileDescriptor:
    """A file descriptor that is closed once, by its first user to do so."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._forget = nothing

    def store(self, store: FdStore, name: str) -> None:
        """Has it stored by a name, and removed there when it is closed."""
        if self.fd >= 0:
            self._forget = stored(store, {name: self.fd})

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._forget()


class InputRelay:
    """Types what comes from a stream on a terminal; reads no further while that takes no more.

    The end of a stream is not passed on: a terminal has none.

    Args:
        source: not blocking; closed at its end.
        master: not blocking.
        on_end: called at its end, or when the terminal takes no more.
        splices: the source is a FIFO, and no byte may be in this process, which may be killed.
    """

    def __init__(
        self,
        source: FileDescriptor,
        master: int,
        on_end: Callable[[], object] = lambda: None,
        *,
        splices: bool = False,
    ) -> None:
        self._splices = splices
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._master = master
        self._on_end = on_end
        self._pending = b""
        self._stop_waiting: Callable[[], object] | None = None

    def begin_with(self, typed: bytes) -> None:
        """Has it type something before all that is to come; called before `start`."""
        self._pending = typed

    @property
    def pending(self) -> bytes:
        """What it has read and not typed yet."""
        return self._pending

    def start(self) -> None:
        """Begins, unless the source has ended already."""
        if self._source.fd < 0:
            return
        if self._pending:
            self._wait_for_master()
        else:
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
                if self._splices:
                    if self._splice() == 0:
                        break
                    continue
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
        except BlockingIOError:
            if poll(self._source.fd, select.POLLIN) & select.POLLIN:
                self._wait_for_master()
            else:
                self._wait_for_source()
            return
        except OSError as error:
            _log.warning("the input of a terminal ends: %s", error)
        self.stop()
        self._source.close()
        self._on_end()

    def _splice(self) -> int:
        return os.splice(
            self._source.fd, self._master, _INPUT_CHUNK, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
        )
