"""What all reapers of this process share: there is one set of children, whichever shim they belong to."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from shimpy.core.reaper import procfs


class Waited:
    """A child that a reaper waits for.

    Attributes:
        pid: its process id.
        pidfd: a file descriptor of it, -1 if there is none.
    """

    __slots__ = ("pid", "pidfd")

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd


class Registry:
    """The pids that are waited for, and the `spawning` blocks in which more may be started.

    A child that one reaper takes for an orphan may be another's, whose loop may run in another
    thread. So whether it is one is decided here, under a lock that is held until it is reaped.

    Attributes:
        lock: held from a decision about a pid to acting on it.
    """

    def __init__(self) -> None:
        self._waited: dict[int, Waited] = {}
        self._windows: list[int] = []  # when each was opened, the oldest first
        self._sweepers: dict[object, Callable[[], object]] = {}
        self.reset()

    def reset(self) -> None:
        """Forgets everything: after a fork(2) none of it is the new process's, nor is the lock free."""
        self.lock = threading.RLock()
        self._waited.clear()
        self._windows.clear()
        self._sweepers.clear()

    def add(self, waited: Waited) -> bool:
        """Notes a child that is waited for; returns False if its pid is waited for already."""
        with self.lock:
            if self.knows(waited.pid):
                return False
            self._waited[waited.pid] = waited
            return True

    def discard(self, waited: Waited) -> None:
        """Notes that a child is not waited for any more. Idempotent."""
        with self.lock:
            if self._waited.get(waited.pid) is waited:
                del self._waited[waited.pid]

    def knows(self, pid: int) -> bool:
        """Returns whether the process that has a pid now is waited for."""
        with self.lock:
            waited = self._waited.get(pid)
            # Its owner may not have heard yet that it is gone, and the pid be another's.
            return waited is not None and (waited.pidfd < 0 or procfs.is_there(waited.pidfd))

    @contextlib.contextmanager
    def spawning(self, freed: Callable[[], object] = lambda: None) -> Iterator[None]:
        """While it is open, nothing is an orphan that was started in it.

        Args:
            freed: called in the end, if what was started meanwhile may be an orphan then: no block is open
                that was opened before.
        """
        with self.lock:
            opened = procfs.now()
            self._windows.append(opened)
        try:
            yield
        finally:
            with self.lock:
                self._windows.remove(opened)
                unchanged = self._windows and self._windows[0] <= opened
            if not unchanged:
                freed()

    def is_open_since(self, moment: int) -> bool:
        """Returns whether a window is open that was opened by then; see `procfs.now`."""
        with self.lock:
            return bool(self._windows) and self._windows[0] <= moment

    def is_orphan(self, pid: int) -> bool:
        """Returns whether a child has no waiter, and none can be about to appear.

        Raises:
            OSError: there is none of that pid.
        """
        with self.lock:
            return not (self.knows(pid) or self.is_open_since(procfs.start_time(pid)))

    def add_sweeper(self, owner: object, sweep: Callable[[], object]) -> None:
        """Has `sweep` called, in any thread, when `wake` is called on behalf of others than its owner."""
        with self.lock:
            self._sweepers[owner] = sweep

    def discard_sweeper(self, owner: object) -> None:
        """Ends that. Idempotent."""
        with self.lock:
            self._sweepers.pop(owner, None)

    def wake(self, source: object) -> None:
        """Tells the sweepers, save that of `source`, that what they left alone may be an orphan now."""
        with self.lock:
            sweepers = [sweep for owner, sweep in self._sweepers.items() if owner is not source]
        for sweep in sweepers:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                sweep()


registry = Registry()

os.register_at_fork(after_in_child=registry.reset)
