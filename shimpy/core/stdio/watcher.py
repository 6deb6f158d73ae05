"""Watching file descriptors and files in ways that asyncio's event loop does not offer."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import struct
from collections.abc import Callable
from typing import Final

from shimpy import linux

IN_CLOSE_NOWRITE: Final = 0x10
IN_OPEN: Final = 0x20
_IN_Q_OVERFLOW: Final = 0x4000

_log = logging.getLogger(__name__)


class Watcher:
    """One epoll and one inotify, through which everything is watched that an event loop does not.

    Both are made when they are first needed, in the event loop that runs then; a watcher is used
    from that loop only.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._epoll: select.epoll | None = None
        self._inotify: _Inotify | None = None
        self._callbacks: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Calls back with the epoll events of a file descriptor; EPOLLERR and EPOLLHUP always.

        A callback may come once after its file descriptor was closed and its number used again, so it
        has to look at the file descriptor rather than to trust the events.

        Raises:
            OSError: no file descriptor, memory or watch was left, or the file cannot be watched.
        """
        if self._epoll is None:
            self._loop = asyncio.get_running_loop()
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._dispatch)
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Ends a watch, before the file descriptor is closed; without one it does nothing."""
        if self._callbacks.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    def watch_inode(self, fd: int, mask: int, callback: Callable[[], None]) -> int | None:
        """Calls back for inotify(7) events of the file that a file descriptor stands for.

        Returns:
            A watch for `unwatch_inode`, or None if inotify is out of instances or watches.
        """
        try:
            if self._inotify is None:
                inotify = _Inotify()
                try:
                    self.watch(inotify.fd, select.EPOLLIN, inotify.dispatch)
                except OSError:
                    inotify.close()
                    raise
                self._inotify = inotify
            return self._inotify.add(fd, mask, callback)
        except OSError as error:
            _log.warning("inotify unavailable (%s); polling the FIFO instead", error)
            return None

    def unwatch_inode(self, watch: int | None) -> None:
        """Ends a watch of `watch_inode`; events that are already on their way are dropped."""
        if watch is not None and self._inotify is not None:
            self._inotify.remove(watch)

    def close(self) -> None:
        """Ends every watch; idempotent."""
        if self._inotify is not None:
            self.unwatch(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
        if self._epoll is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        self._callbacks.clear()

    def _dispatch(self) -> None:
        if self._epoll is None:
            return
        for fd, events in self._epoll.poll(0, 64):
            callback = self._callbacks.get(fd)
            if callback is None:
                continue
            try:
                callback(events)
            except Exception:  # noqa: BLE001 - one stream's trouble is not another's
                _log.exception("a callback of stdio failed")


class _Inotify:
    """inotify(7), which the standard library does not offer."""

    _EVENT: Final = struct.Struct("iIII")

    def __init__(self) -> None:
        self.fd = linux.inotify_init(os.O_NONBLOCK | os.O_CLOEXEC)
        self._callbacks: dict[int, Callable[[], None]] = {}

    def add(self, fd: int, mask: int, callback: Callable[[], None]) -> int:
        watch = linux.inotify_add_watch(self.fd, f"/proc/self/fd/{fd}", mask)
        self._callbacks[watch] = callback
        return watch

    def remove(self, watch: int) -> None:
        if self._callbacks.pop(watch, None) is not None:
            linux.inotify_rm_watch(self.fd, watch)

    def dispatch(self, _events: int) -> None:
        try:
            data = os.read(self.fd, 16384)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            watch, mask, _cookie, length = self._EVENT.unpack_from(data, offset)
            offset += self._EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                for callback in list(self._callbacks.values()):
                    callback()
            elif watch in self._callbacks and mask & (IN_OPEN | IN_CLOSE_NOWRITE):
                self._callbacks[watch]()

    def close(self) -> None:
        self._callbacks.clear()
        os.close(self.fd)
