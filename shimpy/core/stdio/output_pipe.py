"""A pipe between a process and its output: its readers see EOF though others hold the process's end.

What an exec has started may live on after its Delete, with the exec's output. Only a pipe that the shim
itself reads lets it end that output for its readers. No byte of it is copied on the way to a FIFO,
unless there is so little that a page takes it: splice(2) would give each line a page, and a FIFO has
sixteen. To a file that is appended to splice(2) does not write at all.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import fcntl
import logging
import os
import select
import stat
import sys
import termios
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from shimpy.core.fd_store import FdStore
from shimpy.core.stdio.capacity import MOST, enlarge
from shimpy.core.stdio.fifo import poll

if TYPE_CHECKING:
    from shimpy.core.hooks.tap import Tap

_PAGE: Final = 4096
_COPY: Final = 65536
# What is more waits for the next turn of the event loop, so that a flood does not starve the rest.
_MOVES_AT_ONCE: Final = 16
# Seconds between two looks at who writes without end, in small pieces: each look costs as much as moving a
# hundred pages.
_GATHER: Final = 0.001
_SPLICE_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

_log = logging.getLogger(__name__)


class OutputPipe:
    """Passes on what a process writes, until its last writer has gone or it is stopped.

    A FIFO that is full is waited for. A file that takes no more (a full disk) is not: what it would
    not take is dropped, with one warning in the log, and the process is not told.

    Args:
        sink: a FIFO or pipe, which has to have a reader for as long as it is written to, a regular file, or a
            device; not blocking. The pipe's own from now on.
        tap: the name of the stream, and who gets a copy of it; None for nobody.
        pipe: the end of a pipe of which the process has the other already, likewise; -1: there is none.

    Attributes:
        child: the end that the process writes, the caller's to close; -1 if it has it already.
        drained: the process has exited, and what it wrote before has been passed on.
    """

    def __init__(self, sink: int, tap: tuple[str, Tap] | None = None, pipe: int = -1) -> None:
        self.drained = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._tap = tap
        self._waits_for_tap = False
        self._to_file = stat.S_ISREG(os.fstat(sink).st_mode)
        # Taken from the pipe, when another writer of the FIFO has filled it in that moment.
        self._pending = b""
        # Bytes that were in the pipe when the process exited, and have not been passed on.
        self._due: int | None = None
        self._dropped = False
        self._waits_for_room = False
        self._moved_at = 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._pipe, self.child = pipe, -1
        if pipe >= 0:
            return
        try:
            self._pipe, self.child = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(sink)
            raise
        # The two ends have a file description each: this leaves the process's end blocking.
        os.set_blocking(self._pipe, False)
        # The more there is, the more is moved at a time.
        enlarge(self._pipe)
        enlarge(sink)

    def start(self) -> None:
        """Begins, once only the process has the other end."""
        if self._pipe >= 0:
            self._loop.add_reader(self._pipe, self._move)

    def hand_over(self, store: FdStore, key: str) -> dict[str, Any] | None:
        """See `ProcessIO.hand_over`; None if it has been stopped."""
        if self._pipe < 0:
            return None
        store.put(f"relay-{key}", self._pipe)
        store.put(f"relayed-{key}", self._sink)
        return {
            "pending": base64.b64encode(self._pending).decode(),
            "due": self._due,
            "dropped": self._dropped,
        }

    @classmethod
    def handed_over(cls, known: Mapping[str, Any], fds: dict[str, int], key: str) -> OutputPipe:
        """Returns what goes on where another has left off, started.

        Args:
            known: as `hand_over` returned it.
            fds: what that has put, by name; its own are taken out.
            key: as for `hand_over`.
        """
        relay = cls(fds.pop(f"relayed-{key}"), pipe=fds.pop(f"relay-{key}"))
        relay._pending = base64.b64decode(known["pending"])
        relay._due, relay._dropped = known["due"], bool(known["dropped"])
        relay._passed_on(0)
        relay.start()
        if relay._pending:
            relay._wait()
        return relay

    def process_exited(self) -> None:
        """From now on it is drained as soon as what is there has been passed on."""
        if self._pipe >= 0 and self._due is None:
            self._due = self._in_pipe() + len(self._pending)
            self._passed_on(0)
            self._gathered()

    def stop(self) -> None:
        """Ends it: readers see EOF, who still writes gets SIGPIPE, what is left is gone. Idempotent."""
        if self._pipe < 0:
            return
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._loop.remove_reader(self._pipe)
        if self._waits_for_room:
            self._loop.remove_writer(self._sink)
        os.close(self._pipe)
        os.close(self._sink)
        self._pipe = self._sink = -1
        self.drained.set()

    def _move(self) -> None:
        for number in range(_MOVES_AT_ONCE):
            if self._tap is not None and self._tap[1].is_full:
                self._wait_for_tap(self._tap[1])
                return
            try:
                more = self._copy_to_file() if self._to_file else self._pass_on()
            except BlockingIOError:
                self._wait(moved=number > 0)
                return
            except OSError as error:
                _log.warning("the output of a process ends: %s", error)
                more = False
            if not more:
                self.stop()
                return

    def _pass_on(self) -> bool:
        """Moves some to the FIFO; False at the end.

        Raises:
            BlockingIOError: there is nothing, or no room for it.
        """
        if not self._pending:
            if self._tap is None and self._in_pipe() > _PAGE:
                moved = os.splice(self._pipe, self._sink, MOST, flags=_SPLICE_FLAGS)
                self._passed_on(moved)
                return moved > 0
            # A FIFO that is full does not keep the end from being seen.
            if not (found := poll(self._pipe, select.POLLIN)) & select.POLLIN:
                if found & select.POLLHUP:
                    return False
                raise BlockingIOError(errno.EAGAIN, "there is nothing")
            # With room for a page nothing has to be kept here.
            if not poll(self._sink, select.POLLOUT) & select.POLLOUT:
                raise BlockingIOError(errno.EAGAIN, "the FIFO is full")
            self._pending = self._read(_PAGE if self._tap is None else _COPY)
        written = os.write(self._sink, self._pending)
        self._pending = self._pending[written:]
        self._passed_on(written)
        return True

    def _copy_to_file(self) -> bool:
        data = self._read(_COPY)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._sink, rest) :]
        except OSError as error:
            if not self._dropped:
                _log.warning("output of a process is dropped: %s", error)
            self._dropped = True
        self._passed_on(len(data))
        return len(data) > 0

    def _read(self, size: int) -> bytes:
        data = os.read(self._pipe, size)
        if self._tap is not None and data:
            stream, tap = self._tap
            tap.write(stream, data)
        return data

    def _passed_on(self, count: int) -> None:
        if self._due is not None:
            self._due -= count
            if self._due <= 0:
                self.drained.set()

    def _wait(self, *, moved: bool = False) -> None:
        """Waits for the side that is in the way, and for that only: the other may be ready.

        Args:
            moved: something has just been moved.
        """
        # What has come just now is no sign of it, and a file is never full: it cannot be waited for.
        full = bool(self._pending) or (
            bool(poll(self._pipe, select.POLLIN) & select.POLLIN)
            and not poll(self._sink, select.POLLOUT) & select.POLLOUT
        )
        if full and not self._waits_for_room:
            self._loop.remove_reader(self._pipe)
            self._loop.add_writer(self._sink, self._move)
        elif self._waits_for_room and not full:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._pipe, self._move)
        self._waits_for_room = full
        if moved:
            before, self._moved_at = self._moved_at, self._loop.time()
            if not full and self._moved_at - before < _GATHER:
                self._loop.remove_reader(self._pipe)
                self._gathering = self._loop.call_later(_GATHER, self._gathered)

    def _gathered(self) -> None:
        """Looks at the pipe again, if that was put off."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
            self._moved_at = self._loop.time()  # what has come meanwhile is more of the same
            self._loop.add_reader(self._pipe, self._move)
            self._move()

    def _wait_for_tap(self, tap: Tap) -> None:
        """Waits until the tap has room; once, and for nothing else meanwhile."""
        if not self._waits_for_tap:
            self._waits_for_tap = True
            self._loop.remove_reader(self._pipe)
            self._loop.remove_writer(self._sink)
            self._waits_for_room = False
            tap.on_room(self._resume)

    def _resume(self) -> None:
        self._waits_for_tap = False
        if self._pipe >= 0:
            self._loop.add_reader(self._pipe, self._move)
            self._move()

    def _in_pipe(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
