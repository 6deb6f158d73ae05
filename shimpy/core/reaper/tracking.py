"""The processes that are waited for by their pid, traced ones (ptrace(2)) included."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable

from shimpy.core.reaper import procfs
from shimpy.core.reaper.registry import Waited, registry
from shimpy.errors import InternalError

_log = logging.getLogger(__name__)

# The exit status of a process that was waited for elsewhere; containerd uses the same.
LOST_STATUS = 255

# Seconds until a dead process that is not ours to reap is looked at again; then twice as long, and so on.
FIRST_LOOK = 0.01

# The most seconds between two such looks.
LAST_LOOK = 0.25

# Seconds between looks at what may be dead without the kernel saying so.
SURVEY = 2.0


class Child(Waited):
    """A process that the reaper waits for by its pid.

    It holds a pidfd, so that a signal can never reach another process that got the pid later.

    Attributes:
        pid: the process id; possibly reused once `exit_status` is set.
        exit_status: None while it lives; then the exit code, or 128 + the signal's number.
    """

    __slots__ = ("_execed", "_on_exit", "_timer", "_tracking", "exit_status")

    def __init__(self, pid: int, pidfd: int, tracking: Tracking, on_exit: Callable[[int], None]) -> None:
        super().__init__(pid, pidfd)
        self.exit_status: int | None = None
        self._execed = False
        self._timer: asyncio.TimerHandle | None = None
        self._tracking = tracking
        self._on_exit = on_exit

    @property
    def has_execed(self) -> bool:
        """Whether it has begun another program than that which forked it; see `descent.has_execed`."""
        return procfs.has_execed(self.pid) if self.exit_status is None else self._execed

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Sends a signal; nothing happens to a process that is reaped, or after the reaper's end."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signum)
            if signum == signal.SIGKILL:
                self._tracking._look_later(self, FIRST_LOOK)


class Tracking:
    """Waits for processes by their pid; see `reaper.Reaper`.

    A zombie that is being traced is its tracer's until that has waited for it, or ended
    (ptrace(2)): the pidfd is readable, and there is nothing to reap. Its exit is told all the same,
    with the status that /proc tells, and it is reaped when the tracer lets go. Of a program of
    several threads the pidfd is not even readable then; so each is looked at every `SURVEY`, and
    soon after it is killed.

    Args:
        reaped: called after each exit, and every SURVEY seconds.
    """

    def __init__(self, reaped: Callable[[], None]) -> None:
        self._reaped = reaped
        self._loop: asyncio.AbstractEventLoop | None = None
        self._children: set[Child] = set()
        self._timer: asyncio.TimerHandle | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins."""
        self._loop = loop

    def close(self) -> None:
        """Waits for none any more; the processes go on. Idempotent."""
        for child in list(self._children):
            if child.exit_status is not None:
                with contextlib.suppress(ChildProcessError):
                    _wait(child.pidfd)  # its tracer may have ended since the last look
            self._forget(child)
            child._on_exit = _nothing
        self._loop = None

    def track(self, pid: int, on_exit: Callable[[int], None]) -> Child:
        """Waits for a child by its pid from now on.

        Args:
            pid: a child of this process, running or already a zombie.
            on_exit: called in the event loop, never from within this call, with the exit status.

        Raises:
            InternalError: it is not a child of this process, or is waited for already.
        """
        if self._loop is None:
            raise InternalError("the reaper is not open")
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise InternalError(
                f"process {pid}, which the runtime reported, does not exist: {error.strerror}"
            ) from error
        try:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            os.close(pidfd)
            raise InternalError(
                f"process {pid} is not a child of the shim: the runtime reported a wrong pid"
            ) from None
        child = Child(pid, pidfd, self, on_exit)
        if not registry.add(child):
            os.close(pidfd)
            raise InternalError(f"process {pid} is already tracked: the runtime reported a wrong pid")
        self._children.add(child)
        self._loop.add_reader(pidfd, self._ended, child)
        if self._timer is None:
            self._timer = self._loop.call_later(SURVEY, self._survey)
        return child

    def _ended(self, child: Child) -> None:
        if self._loop is not None:
            self._loop.remove_reader(child.pidfd)  # it is readable from now on, whatever happens
        self._look(child, FIRST_LOOK)

    def _look(self, child: Child, delay: float) -> None:
        """Reaps a process if it can be; looks again, in `delay` seconds at first, if not."""
        execed = procfs.has_execed(child.pid)  # to be known until it is waited for
        try:
            status = _wait(child.pidfd)
        except ChildProcessError:
            status = LOST_STATUS
            if child.exit_status is None:
                _log.warning("process %d was waited for elsewhere; its exit status is lost", child.pid)
        if status is not None:
            self._forget(child)
            self._exited(child, status, execed)
            return
        self._look_later(child, delay)
        if child.exit_status is None and procfs.is_dead(child.pid):
            try:
                status = _traced_status(child.pid)
            except OSError:
                return  # no file descriptor is left, perhaps; there is a next time
            if procfs.is_there(child.pidfd):
                self._exited(child, status, execed)

    def _survey(self) -> None:
        self._timer = None
        if self._loop is not None:
            self._timer = self._loop.call_later(SURVEY, self._survey)
        for child in list(self._children):
            if child.pidfd >= 0 and child.exit_status is None and procfs.is_dead(child.pid):
                self._look(child, FIRST_LOOK)
        # An orphan may have died after the last exit that was noticed, and one in the pid namespace of a
        # container whose init is dying keeps that from its end, so that there would be no next exit.
        self._reaped()

    def _look_later(self, child: Child, delay: float) -> None:
        if child._timer is not None:
            child._timer.cancel()
        if self._loop is not None:
            child._timer = self._loop.call_later(delay, self._look, child, min(2 * delay, LAST_LOOK))

    def _exited(self, child: Child, status: int, execed: bool) -> None:
        """Tells that a process has ended, once."""
        if child.exit_status is not None:
            return
        child._execed = execed
        child.exit_status = status
        on_exit, child._on_exit = child._on_exit, _nothing
        try:
            on_exit(status)
        finally:
            self._reaped()

    def _forget(self, child: Child) -> None:
        self._children.discard(child)
        if not self._children and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        registry.discard(child)
        if child._timer is not None:
            child._timer.cancel()
            child._timer = None
        if self._loop is not None:
            self._loop.remove_reader(child.pidfd)
        os.close(child.pidfd)
        child.pidfd = -1


def _wait(pidfd: int) -> int | None:
    """Reaps a child; returns its exit status, None if there is nothing to reap.

    Raises:
        ChildProcessError: it was reaped elsewhere.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def _traced_status(pid: int) -> int:
    """Returns the exit status of a zombie that is its tracer's.

    Raises:
        OSError: /proc cannot be read.
    """
    try:
        code = os.waitstatus_to_exitcode(procfs.wait_status(pid))
    except PermissionError:
        _log.warning("process %d is traced, and not by us; its exit status is not to be had", pid)
        return LOST_STATUS
    return code if code >= 0 else 128 - code


def _nothing(_status: int) -> None:
    """Called in place of a callback that need not be kept any more."""
