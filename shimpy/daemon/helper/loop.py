"""Waits for file descriptors, ends of processes, times and signals at once: one thread, no tasks."""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
else:
    import _signal

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Timer:
    """A call that is to be made at a time; see `HelperLoop.call_later`."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Has the call not be made. Idempotent."""
        self.callback = None


class HelperLoop:
    """Calls back when something happens.

    What a callback raises ends `run` and is raised by it: what can be foreseen is the callback's to catch.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._timers: list[Timer] = []
        self._handlers: dict[int, Callable[[], object]] = {}
        self._woken = -1
        self._waking = -1
        self._stopped = False

    def watch(self, fd: int, callback: Callable[[], object], *, events: int = READ) -> None:
        """Calls back whenever a file descriptor is ready, or has hung up, until `unwatch`.

        Args:
            fd: one that is not watched yet; it is `unwatch`ed before it is closed.
            callback: what to call.
            events: READ, WRITE or both.
        """
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Ends `watch`. Idempotent."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def watch_exit(self, pidfd: int, callback: Callable[[], object]) -> None:
        """Calls back once, when a process has ended; it is not reaped by that, nor the pidfd closed.

        A pidfd stays readable until somebody reaps, and with a tracer around nobody may be able to: so it is
        told of once.
        """

        def ended() -> None:
            self.unwatch(pidfd)
            callback()

        self.watch(pidfd, ended)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Calls back once, some seconds from now, unless the timer is cancelled."""
        timer = Timer(time.monotonic() + seconds, callback)
        self._timers.append(timer)
        return timer

    def handle_signal(self, number: int, callback: Callable[[], object]) -> None:
        """Calls back, from `run` and never in between, after a signal; several may be told of as one."""
        if self._waking < 0:
            self._woken, self._waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            _signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)
            self.watch(self._woken, self._tell_signals)
        self._handlers[number] = callback
        _signal.signal(number, _nothing)

    def run(self) -> None:
        """Waits and calls back until `stop`, or until a callback raises."""
        self._stopped = False
        while not self._stopped:
            for fd, _ in self._epoll.poll(self._until_next_timer()):
                # An earlier one may have ended the watching of a later one.
                callback = self._callbacks.get(fd)
                if callback is not None and not self._stopped:
                    callback()
            self._run_timers()

    def stop(self) -> None:
        """Has `run` return before it calls back again. Idempotent."""
        self._stopped = True

    def fork(self) -> int:
        """Forks (fork(2)); the child has neither this loop nor its handlers of signals.

        A signal that is sent to the child is the child's from its first instant on: without the mask around
        the fork, it would be written into the pipe that both have.
        """
        old = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self.close()
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, old)
        return pid

    def close(self) -> None:
        """Lets go of everything; signals have their default again. Not to be used after that. Idempotent."""
        self.stop()
        if self._waking >= 0:
            _signal.set_wakeup_fd(-1)
            for number in self._handlers:
                _signal.signal(number, _signal.SIG_DFL)
            os.close(self._waking)
            os.close(self._woken)
            self._waking = self._woken = -1
        # Without `unwatch`: after a fork the epoll instance is the parent's too.
        self._epoll.close()
        self._callbacks.clear()
        self._timers.clear()
        self._handlers.clear()

    def _until_next_timer(self) -> float:
        """Returns the seconds to wait at most, -1 for as long as it takes."""
        self._timers = [timer for timer in self._timers if timer.callback is not None]
        if not self._timers:
            return -1
        return max(0.0, min(timer.when for timer in self._timers) - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        for timer in sorted(self._timers, key=lambda timer: timer.when):
            callback = timer.callback
            if timer.when <= now and callback is not None and not self._stopped:
                timer.cancel()
                callback()

    def _tell_signals(self) -> None:
        try:
            numbers = os.read(self._woken, 1 << 12)
        except BlockingIOError:
            return
        for number in dict.fromkeys(numbers):
            callback = self._handlers.get(number)
            if callback is not None and not self._stopped:
                callback()


def _nothing(_number: int, _frame: object) -> None:
    """The interpreter itself writes the number into the pipe."""
