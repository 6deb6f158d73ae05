"""The processes that are waited for by their pid, traced ones (ptrace(2)) included."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable

from shimpy.core.reaper import procfs
from shimpy.core.reaper.child import FIRST_LOOK, LAST_LOOK, LOST_STATUS, Child, nothing, status_of, wait
from shimpy.core.reaper.registry import registry
from shimpy.errors import InternalError

_log = logging.getLogger(__name__)

# Seconds between looks at what may be dead without the kernel saying so.
SURVEY = 2.0


class Tracking:
    """Waits for processes by their pid; see `reaper.Reaper`.

    A zombie that is being traced is its tracer's until that has waited for it, or ended
    (ptrace(2)): the pidfd is readable, and there is nothing to reap. Its exit is told all the same,
    with the status that /proc tells, and it is reaped when the tracer lets go. Of a program of
    several threads the pidfd is not even readable then; so each is looked at every `SURVEY`, and
    soon after it is killed.

    Args:
        reaped: called after each exit, and every SURVEY seconds.
        notes_exec: whether `has_execed` of its children is asked for when they have ended.
    """

    def __init__(self, reaped: Callable[[], None], *, notes_exec: bool = True) -> None:
        self._reaped = reaped
        self._notes_exec = notes_exec
        self._loop: asyncio.AbstractEventLoop | None = None
        self._children: set[Child] = set()
        self._timer: asyncio.TimerHandle | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins."""
        self._loop = loop

    def close(self) -> None:
        """Waits for none any more; the processes go on. Idempotent."""
        for child in list(self._children):
            if child.code is not None:
                with contextlib.suppress(ChildProcessError):
                    wait(child.pidfd)  # its tracer may have ended since the last look
            self._forget(child)
            child._on_exit = nothing
        self._loop = None

    def track(
        self, pid: int, on_exit: Callable[[int], None], before_reap: Callable[[int], None] | None = None
    ) -> Child:
        """Waits for a child by its pid from now on.

        Args:
            pid: a child of this process, running or already a zombie.
            on_exit: called in the event loop, never from within this call, with the exit status.
            before_reap: called with the exit status while nobody else can lose it yet.

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
        try:
            return self.adopt(pid, pidfd, on_exit, before_reap)
        except ValueError as error:
            raise InternalError(f"{error}: the runtime reported a wrong pid") from None

    def adopt(
        self,
        pid: int,
        pidfd: int,
        on_exit: Callable[[int], None],
        before_reap: Callable[[int], None] | None = None,
        *,
        is_foreign: bool = False,
    ) -> Child:
        """Waits for a child, of which it is certain that it is one, from now on.

        Args:
            pid: the child.
            pidfd: a file descriptor of it, which is closed here in the end.
            on_exit: as for `track`.
            before_reap: as for `track`.
            is_foreign: it is another's child, and only its exit is looked at; see `foreign`.

        Raises:
            ValueError: it is waited for already.
        """
        if self._loop is None:
            raise RuntimeError("the reaper is not open")
        child = Child(pid, pidfd, self, on_exit, before_reap, is_foreign=is_foreign)
        if not registry.add(child):
            os.close(pidfd)
            raise ValueError(f"process {pid} is already tracked")
        self._children.add(child)
        self._loop.add_reader(pidfd, self._ended, child)
        if self._timer is None:
            self._timer = self._loop.call_later(SURVEY, self._survey)
        return child

    def ended(self, pid: int, status: int) -> Child:
        """Returns what stands for a process that has ended before; see `Reaper.ended`."""
        child = Child(pid, -1, self, nothing)
        child.code = status
        return child

    def _ended(self, child: Child) -> None:
        if self._loop is not None:
            self._loop.remove_reader(child.pidfd)  # it is readable from now on, whatever happens
        self._look(child, FIRST_LOOK)

    def _look(self, child: Child, delay: float) -> None:
        """Reaps a process if it can be; looks again, in `delay` seconds at first, if not."""
        # To be known until it is waited for.
        execed = self._notes_exec and procfs.has_execed(child.pid)
        try:
            code = child._reap()
        except ChildProcessError:
            code = LOST_STATUS
            if child.code is None:
                _log.warning("process %d was waited for elsewhere; its exit status is lost", child.pid)
        if code is not None:
            self._forget(child)
            self._exited(child, code, execed)
            return
        self._look_later(child, delay)
        if child.code is None and procfs.is_dead(child.pid):
            try:
                code = _traced_code(child.pid)
            except OSError:
                return  # no file descriptor is left, perhaps; there is a next time
            if procfs.is_there(child.pidfd):
                self._exited(child, code, execed)

    def _survey(self) -> None:
        self._timer = None
        if self._loop is not None:
            self._timer = self._loop.call_later(SURVEY, self._survey)
        for child in list(self._children):
            if child.pidfd >= 0 and child.code is None and procfs.is_dead(child.pid):
                self._look(child, FIRST_LOOK)
        # An orphan may have died after the last exit that was noticed, and one in the pid namespace of a
        # container whose init is dying keeps that from its end, so that there would be no next exit.
        self._reaped()

    def _look_later(self, child: Child, delay: float) -> None:
        if child._timer is not None:
            child._timer.cancel()
        if self._loop is not None:
            child._timer = self._loop.call_later(delay, self._look, child, min(2 * delay, LAST_LOOK))

    def _exited(self, child: Child, code: int, execed: bool) -> None:
        """Tells that a process has ended, once."""
        if child.code is not None:
            return
        child._execed = execed
        child.code = code
        on_exit, child._on_exit = child._on_exit, nothing
        try:
            on_exit(status_of(code))
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
        child.pidfd = -1
        child._close()


def _traced_code(pid: int) -> int:
    """Returns the `Child.code` of a zombie that is its tracer's.

    Raises:
        OSError: /proc cannot be read.
    """
    try:
        return os.waitstatus_to_exitcode(procfs.wait_status(pid))
    except PermissionError:
        _log.warning("process %d is traced, and not by us; its exit status is not to be had", pid)
        return LOST_STATUS
