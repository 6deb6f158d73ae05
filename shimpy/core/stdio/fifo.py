"""Output FIFOs whose readers may come late, die and come back, without a byte being copied.

A process gets the write end of its FIFO itself. What the shim does is to keep the pipe behind the FIFO alive
(`pipe(7)`: what was written is gone once the pipe is not open anywhere) and to make sure that readers see EOF
when, and only when, all writers are gone:

- *Live*: a read end is kept open and never read. The process gets no SIGPIPE, and since no write end is kept,
  a reader sees EOF as soon as the last writer is gone. The kernel tells (EPOLLHUP; data does not wake us).
- *Held*: there are no writers and no readers. A reader's open(2) would block for want of a writer
  (`fifo(7)`), so a write end is kept instead of the read end. inotify says that a reader came.
- *Reading*: there are no writers, but a reader. The read end is kept, so that the reader reads the rest and
  then EOF, and what it leaves stays for the next one. inotify says that a reader left.

Two things keep inotify from being enough, and so there is a timer while a reader is there: the kernel reports
a close(2) shortly before the reader is off the pipe's books, and a second reader that opens the FIFO beside
the first blocks in open(2) unseen. Each tick looks again, which also lets such a second reader in. The timer
backs off to once a second; it is also what looks first when the last writer has gone.

A process that can open a FIFO, the container's among them, can do so in a loop, and each time wakes the shim.
So a FIFO is good for `_WAKEUPS` wake-ups a second; after that it is not watched until the second is over,
when the timer looks. A reader waits no longer than that for its EOF.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
from collections.abc import Callable
from typing import Final

from shimpy.core.fd_store import FdStore, stored_name
from shimpy.core.stdio.watcher import IN_CLOSE_NOWRITE, IN_OPEN, Watcher

# The timer's first and longest pause, in seconds.
_FIRST_LOOK: Final = 0.02
_LAST_LOOK: Final = 1.0
# How often one FIFO wakes the shim in one window, and the window's length in seconds. It also ends
# the chase of two shims that keep one FIFO: they take each other's read ends for readers, and each
# look of one makes the other look.
_WAKEUPS: Final = 32
_WINDOW: Final = 1.0

_log = logging.getLogger(__name__)


def reopen(fd: int, flags: int) -> int:
    """Opens what a file descriptor stands for anew, with a file description of its own.

    Args:
        fd: any file descriptor, also one that was opened with O_PATH.
        flags: as for open(2); O_CLOEXEC and O_NOCTTY are added.

    Raises:
        OSError: as open(2) has it.
    """
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_NOCTTY)


def poll(fd: int, events: int = 0) -> int:
    """Returns which events, POLLERR and POLLHUP always among them, are true of a file descriptor now."""
    poller = select.poll()
    poller.register(fd, events)
    return next((found for _, found in poller.poll(0)), 0)


class StdioHub(Watcher):
    """What the stdio of all processes of an event loop shares: the watcher, and the FIFOs kept.

    Attributes:
        store: holds what would be lost with this process; None: nothing does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store: FdStore | None = None
        self.fifos: dict[tuple[int, int], Fifo] = {}

    def close(self) -> None:
        """Lets go of everything, FIFOs that are still in use included; idempotent."""
        for fifo in list(self.fifos.values()):
            fifo.abandon()
        super().close()


class Fifo:
    """Keeps one FIFO that processes write to, as the module's docstring has it.

    There is one object for each FIFO and hub, shared by all processes that name that FIFO. Without
    inotify the states are the same but for *Held*: a reader that comes when all writers are gone is
    let in by the timer, within a second. A FIFO that another program keeps open too is treated as
    having a reader.
    """

    @classmethod
    def keep(cls, hub: StdioHub, fd: int, reader: int = -1) -> Fifo:
        """Returns the keeper of a FIFO; each call is paired with one of `release`.

        Args:
            hub: watches it.
            fd: the FIFO, opened in any way.
            reader: a read end of it that was stored, from now on the keeper's own; -1: there is none.

        Raises:
            OSError: no file descriptor was left, or the FIFO may not be read.
        """
        stat = os.fstat(fd)
        key = stat.st_dev, stat.st_ino
        fifo = hub.fifos.get(key)
        if fifo is None:
            if reader < 0:
                reader = reopen(fd, os.O_RDONLY | os.O_NONBLOCK)
            fifo = hub.fifos[key] = cls(hub, key, reader)
        fifo.share()
        return fifo

    def __init__(self, hub: StdioHub, key: tuple[int, int], reader: int) -> None:
        self._hub, self._key, self._name = hub, key, stored_name(*key)
        self._users = 0
        if hub.store is not None:
            hub.store.put(self._name, reader)
        # One of the two is open at any time, until the last user lets go.
        self._reader = reader
        self._writer = -1
        self._watch: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _FIRST_LOOK
        self._wakeups = 0
        self._window_end = 0.0

    def share(self) -> None:
        """Takes one more use of it, to be given back by `release`."""
        self._users += 1

    def open_writer(self, flags: int = 0) -> int:
        """Opens the FIFO for a process to write to; never waits for a reader.

        Args:
            flags: O_NONBLOCK, for a write end that the shim itself writes to.

        Raises:
            OSError: no file descriptor was left, or the FIFO may not be written.
        """
        reader = self._reader
        if reader < 0:
            reader = reopen(self._writer, os.O_RDONLY | os.O_NONBLOCK)
        try:
            writer = reopen(reader, os.O_WRONLY | flags)
        except OSError:
            if reader != self._reader:
                os.close(reader)
            raise
        self._stop_looking()
        self._reader = reader
        self._close_writer()
        self._watch_for_hang_up()
        return writer

    def release(self) -> None:
        """Gives one use back. With the last, readers see EOF and unread data is lost."""
        self._users -= 1
        if self._users == 0:
            self.abandon()

    def abandon(self) -> None:
        """Closes the FIFO even if it is still used."""
        if self._hub.fifos.get(self._key) is self:
            del self._hub.fifos[self._key]
        if self._hub.store is not None:
            self._hub.store.remove(self._name)
        self._stop_looking()
        if self._reader >= 0:
            # A reader that is stuck in open(2) beside another is let in, and sees EOF.
            with contextlib.suppress(OSError):
                self._writer = reopen(self._reader, os.O_WRONLY | os.O_NONBLOCK)
        self._close_reader()
        self._close_writer()

    def _watch_for_hang_up(self) -> None:
        self._pause = _FIRST_LOOK
        self._hub.unwatch(self._reader)
        try:
            self._hub.watch(self._reader, 0, self._hung_up)
        except OSError as error:
            # Everything else holds.
            _log.warning("cannot watch FIFO for writer hang-up: %s; late readers may block", error)

    def _hung_up(self, _events: int) -> None:
        if self._may_wake():
            # Later: a process that is deleted at once needs no inotify, which takes milliseconds to close.
            self._hub.unwatch(self._reader)
            self._look_later()

    def _may_wake(self) -> bool:
        """Counts a wake-up; once there were too many, the timer has to look instead."""
        self._count()
        if self._wakeups <= _WAKEUPS:
            return True
        self._hub.unwatch(self._reader)
        self._stop_looking()
        self._look_later()
        return False

    def _count(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._window_end:
            self._window_end = now + _WINDOW
            self._wakeups = 0
        self._wakeups += 1

    def _look(self) -> None:
        """Are there writers, and if not, are there readers?"""
        if self._reader < 0:
            self._let_read()
            return
        if not poll(self._reader) & select.POLLHUP:
            self._stop_looking()
            self._watch_for_hang_up()
            return
        self._hub.unwatch(self._reader)
        try:
            # It also wakes a reader that is stuck in open(2).
            self._writer = reopen(self._reader, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            self._look_later()
            return
        if self._hub.store is not None:
            # The copy that is stored counts as a reader; the timer lets in who comes.
            self._close_writer()
            self._look_later()
            return
        # Ours would count as a reader; the write end alone keeps the data until then.
        self._close_reader()
        self._watch_for(IN_OPEN, self._opened)
        if self._watch is None or self._has_reader():
            self._let_read()
        else:
            self._pause = _FIRST_LOOK

    def _opened(self) -> None:
        if self._may_wake() and self._has_reader():
            self._let_read()

    def _has_reader(self) -> bool:
        return not poll(self._writer) & select.POLLERR

    def _let_read(self) -> None:
        self._watch_for(IN_CLOSE_NOWRITE, self._left)
        try:
            self._reader = reopen(self._writer, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            self._look_later()
            return
        self._close_writer()
        self._look_later()

    def _left(self) -> None:
        if self._may_wake():
            self._look()

    def _tick(self) -> None:
        self._timer = None
        self._count()
        self._pause = min(2 * self._pause, _LAST_LOOK)
        self._look()

    def _look_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        when = loop.time() + self._pause
        if self._wakeups >= _WAKEUPS:
            when = max(when, self._window_end)
        self._timer = loop.call_at(when, self._tick)

    def _watch_for(self, mask: int, callback: Callable[[], None]) -> None:
        # A new watch has a new number, so that events of the old one cannot be taken for its own.
        self._stop_looking()
        fd = self._reader if self._reader >= 0 else self._writer
        self._watch = self._hub.watch_inode(fd, mask, callback)

    def _stop_looking(self) -> None:
        self._hub.unwatch_inode(self._watch)
        self._watch = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_reader(self) -> None:
        if self._reader >= 0:
            self._hub.unwatch(self._reader)
            os.close(self._reader)
            self._reader = -1

    def _close_writer(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
