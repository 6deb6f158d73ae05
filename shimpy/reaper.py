"""Who waits for which child process: a child subreaper that gives one exit status for each pid."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .errors import FailedPreconditionError, InternalError

logger = logging.getLogger(__name__)

PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37

_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """A process that the reaper waits for by its pid.

    It holds a pidfd, so that a signal can never reach another process that got the pid later.

    Attributes:
        pid: the process id; somebody else's, possibly, once `exit_status` is set.
        exit_status: None while it lives; then the exit code, or 128 + the signal's number.
    """

    __slots__ = ("_on_exit", "_pidfd", "exit_status", "pid")

    def __init__(self, pid: int, pidfd: int, on_exit: Callable[[int], None]) -> None:
        self.pid = pid
        self.exit_status: int | None = None
        self._pidfd = pidfd
        self._on_exit = on_exit

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Sends a signal; nothing happens to a process that has been reaped."""
        if self.exit_status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)


class Reaper:
    """Collects the exit statuses of processes that somebody else forked.

    A container's processes are started by a runtime that exits at once; as a child subreaper
    (prctl(2), PR_SET_CHILD_SUBREAPER) this process becomes their parent. There is one owner of
    wait() for each child:

    1. asyncio waits for what `spawn` started through it; the reaper never touches these.
    2. A tracked process is waited for by pid, when its pidfd becomes readable (pidfd_open(2)).
       SIGCHLD is not needed for it, so nothing is lost when signals merge, in any thread and
       beside any other user of SIGCHLD.
    3. With `sweep_orphans`, everything else that ends as our child is reaped on SIGCHLD, but not
       while a `window` is open: a process that dies before its pid is known stays a zombie until
       it is tracked, so its status cannot be lost nor its pid reused.

    What it changes in the process, from `open` until `close`: the child subreaper attribute is
    set; SIGCHLD, if it is ignored (the kernel then throws exit statuses away), is set to its
    default; with `sweep_orphans` the loop's SIGCHLD handler is taken. `close` puts each back.

    Args:
        sweep_orphans: reap every child that nobody else waits for. For a process that does
            nothing else; in somebody's program it would steal the statuses of their children.
    """

    def __init__(self, *, sweep_orphans: bool = False) -> None:
        self._sweeps = sweep_orphans
        self._loop: asyncio.AbstractEventLoop | None = None
        self._spawned: set[int] = set()
        self._tracked: dict[int, Child] = {}
        self._windows = 0
        self._restore: list[Callable[[], object]] = []

    def open(self) -> None:
        """Becomes a subreaper and, with `sweep_orphans`, begins to sweep. Twice is harmless.

        Raises:
            FailedPreconditionError: SIGCHLD is ignored and this is not the main thread, the only
                one that may change that.
        """
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._heed_sigchld()
        _Subreaper.acquire()
        self._restore.append(_Subreaper.release)
        if self._sweeps:
            self._loop.add_signal_handler(signal.SIGCHLD, self._sweep)
            self._restore.append(partial(self._loop.remove_signal_handler, signal.SIGCHLD))
            self._sweep()

    def close(self) -> None:
        """Stops waiting for anything and puts back what `open` changed; the processes go on."""
        if self._loop is None:
            return
        for child in list(self._tracked.values()):
            self._forget(child)
        while self._restore:
            self._restore.pop()()
        self._loop = None

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        """While it is open, no unknown child is reaped; open it before a command that makes one."""
        self._windows += 1
        try:
            yield
        finally:
            self._windows -= 1
            self._sweep()

    async def spawn(self, *argv: str, **options: Any) -> asyncio.subprocess.Process:
        """Starts a child that asyncio waits for; `wait` must be called for it.

        Args:
            *argv: program and arguments.
            **options: as asyncio.create_subprocess_exec takes them.
        """
        with self.window():
            process = await asyncio.create_subprocess_exec(*argv, **options)
            self._spawned.add(process.pid)
        return process

    async def wait(self, process: asyncio.subprocess.Process) -> int:
        """Waits for a child that `spawn` started; returns its code, negative for a signal."""
        code = await process.wait()
        self._spawned.discard(process.pid)
        self._sweep()
        return code

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
        if pid in self._tracked or pid in self._spawned:
            raise InternalError(f"process {pid} is known already: the runtime told a wrong pid")
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise InternalError(
                f"process {pid}, which the runtime told of, is not there: {error.strerror}"
            ) from error
        try:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            os.close(pidfd)
            raise InternalError(
                f"process {pid} is not a child of the shim: the runtime told a wrong pid"
            ) from None
        child = Child(pid, pidfd, on_exit)
        self._tracked[pid] = child
        self._loop.add_reader(pidfd, self._reap, child)
        return child

    def is_child(self, pid: int) -> bool:
        """Whether a process is a child of this one, running or a zombie."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def collect(self, pids: Iterable[int]) -> None:
        """Reaps those of these dead processes that became our children and nobody waits for."""
        for pid in pids:
            if pid not in self._tracked and pid not in self._spawned:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)

    def _reap(self, child: Child) -> None:
        result = os.waitid(os.P_PIDFD, child._pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        status = result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
        self._forget(child)
        child.exit_status = status
        try:
            child._on_exit(status)
        finally:
            self._sweep()

    def _forget(self, child: Child) -> None:
        del self._tracked[child.pid]
        if self._loop is not None:
            self._loop.remove_reader(child._pidfd)
        os.close(child._pidfd)
        child._pidfd = -1

    def _sweep(self) -> None:
        """Reaps the orphans, as far as it is certain that they are some.

        The kernel shows one zombie at a time; where that one is asyncio's or tracked, its own
        owner reaps it in a moment and then sweeps again.
        """
        if not self._sweeps or self._loop is None:
            return
        while not self._windows:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None or dead.si_pid in self._spawned or dead.si_pid in self._tracked:
                return
            os.waitid(os.P_PID, dead.si_pid, os.WEXITED | os.WNOHANG)
            logger.debug("reaped orphan %d", dead.si_pid)

    def _heed_sigchld(self) -> None:
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN:
            return
        if threading.current_thread() is not threading.main_thread():
            raise FailedPreconditionError(
                "SIGCHLD is ignored, so exit statuses are lost; "
                "call signal.signal(signal.SIGCHLD, signal.SIG_DFL) in the main thread first"
            )
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._restore.append(lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))


class _Subreaper:
    """The process's child subreaper attribute, counted: several reapers may want it at once."""

    _lock = threading.Lock()
    _users = 0
    _before = 0

    @classmethod
    def acquire(cls) -> None:
        with cls._lock:
            if cls._users == 0:
                before = ctypes.c_int()
                _prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
                cls._before = before.value
                _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
            cls._users += 1

    @classmethod
    def release(cls) -> None:
        with cls._lock:
            cls._users -= 1
            if cls._users == 0:
                _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(cls._before))


def _prctl(option: int, argument: object) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
