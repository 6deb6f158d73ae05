"""One process that a reaper waits for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from shimpy.core.reaper import foreign, procfs
from shimpy.core.reaper.registry import Waited

if TYPE_CHECKING:
    from shimpy.core.reaper.tracking import Tracking

# The exit status of a process that was waited for elsewhere; containerd uses the same.
LOST_STATUS = foreign.LOST_STATUS

# Seconds until a dead process that is not ours to reap is looked at again; then twice as long, and so on.
FIRST_LOOK = 0.01

# The most seconds between two such looks.
LAST_LOOK = 0.25


class Child(Waited):
    """A process that the reaper waits for by its pid.

    It holds a pidfd, so that a signal can never reach another process that got the pid later.

    Attributes:
        pid: the process id; possibly reused once `exit_status` is set.
        code: None while it lives; then the exit code, or the negative number of the signal that killed it.
    """

    __slots__ = (
        "_before_reap",
        "_execed",
        "_held",
        "_holders",
        "_is_foreign",
        "_on_exit",
        "_timer",
        "_tracking",
        "code",
    )

    def __init__(
        self,
        pid: int,
        pidfd: int,
        tracking: Tracking,
        on_exit: Callable[[int], None],
        before_reap: Callable[[int], None] | None = None,
        *,
        is_foreign: bool = False,
    ) -> None:
        super().__init__(pid, pidfd)
        self._before_reap = before_reap
        self._is_foreign = is_foreign
        self.code: int | None = None
        self._execed = False
        self._held = pidfd
        self._holders = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tracking = tracking
        self._on_exit = on_exit

    @property
    def exit_status(self) -> int | None:
        """None while it lives; then the exit code, or 128 + the signal's number."""
        return None if self.code is None else status_of(self.code)

    @property
    def has_execed(self) -> bool:
        """Whether it has begun another program than that which forked it; see `procfs.has_execed`."""
        return procfs.has_execed(self.pid) if self.exit_status is None else self._execed

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Sends a signal; nothing happens to a process that is reaped, or after the reaper's end."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signum)
            if signum == signal.SIGKILL:
                self._tracking._look_later(self, FIRST_LOOK)

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Keeps its pidfd open, so that the number stays its own; -1 if it is reaped already."""
        pidfd = self.pidfd
        self._holders += 1
        try:
            yield pidfd
        finally:
            self._holders -= 1
            self._close()

    def _reap(self) -> int | None:
        """Reaps it, once its exit is noted; returns its `code`, None if it lives, or is not ours to reap.

        Raises:
            ChildProcessError: it was reaped elsewhere.
        """
        if self._is_foreign:
            code = foreign.exit_code(self.pid, self.pidfd)
            if code is not None:
                self._note(code)
            return code
        if self._before_reap is not None:
            code = wait(self.pidfd, os.WNOWAIT)
            if code is None:
                return None
            self._note(code)
        return wait(self.pidfd)

    def _note(self, code: int) -> None:
        if self._before_reap is not None:
            before_reap, self._before_reap = self._before_reap, None
            before_reap(status_of(code))

    def _close(self) -> None:
        """Closes its pidfd, once it is forgotten and nobody holds that."""
        if self.pidfd < 0 and not self._holders and self._held >= 0:
            os.close(self._held)
            self._held = -1


def wait(pidfd: int, flags: int = 0) -> int | None:
    """Reaps a child, unless WNOWAIT is among the flags; returns its `Child.code`, None if it lives.

    Raises:
        ChildProcessError: it was reaped elsewhere.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | flags)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def status_of(code: int) -> int:
    """Returns the exit status of a `Child.code`."""
    return code if code >= 0 else 128 - code


def nothing(_status: int) -> None:
    """Called in place of a callback that need not be kept any more."""
