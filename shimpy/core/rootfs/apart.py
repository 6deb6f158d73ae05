"""Threads that do one thing and end: for calls that block, or that change what a thread is in."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from shimpy.core.rootfs.syscalls import unshare

T = TypeVar("T")


class _Call(Generic[T]):
    """A call whose outcome is kept."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        # A handler would do here what is the main thread's business.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error

    def outcome(self) -> T:
        try:
            if self._error is not None:
                raise self._error
            return self._result  # type: ignore[return-value]  # None where the function returned it
        finally:
            self._error = None  # its traceback holds this frame


def run_apart(function: Callable[[], T], flags: int) -> T:
    """Calls a function in a thread that shares less with this process than its other threads do.

    Python and the C library know nothing of it, and another thread cannot get it: it ends.

    Args:
        function: what to call; the caller blocks until it returns.
        flags: CLONE_ flags, as for unshare(2).

    Raises:
        OSError: the kernel refused; and whatever the function raises.
    """

    def unshared() -> T:
        unshare(flags)
        return function()

    call = _Call(unshared)
    thread = threading.Thread(target=call.run, name="shimpy-unshared", daemon=True)
    thread.start()
    thread.join()
    return call.outcome()


async def run_blocking(function: Callable[[], T]) -> T:
    """Calls a function that may block for long in a thread of its own, and waits for its end.

    What blocks in the kernel cannot be called off. So a cancellation waits too, and only then takes
    effect; the result is lost then, as with any call that was cancelled in time.

    The thread is not one of the event loop's pool: what hangs there would take a place from others, and
    hold up the end of the program, and what does not would leave a thread behind for good.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    call = _Call(function)

    def run() -> None:
        call.run()
        loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="shimpy-blocking", daemon=True).start()
    cancelled: asyncio.CancelledError | None = None
    while not done.is_set():
        try:
            await done.wait()
        except asyncio.CancelledError as error:
            cancelled = error
    result = call.outcome()
    if cancelled is not None:
        raise cancelled
    return result
