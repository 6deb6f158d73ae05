"""Orphans: the processes that the kernel gives to a child subreaper when their parent dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial

from shimpy.core.reaper import procfs
from shimpy.core.reaper.group import CommandGroup
from shimpy.core.reaper.registry import registry

_log = logging.getLogger(__name__)

# Seconds after which claimed orphans are looked for again.
PERIOD = 1.0

# Seconds until a zombie that somebody traces is looked at again; then twice as long, up to PERIOD.
_FIRST_LOOK = 0.01


class Orphans:
    """Reaps orphans, as far as it is certain that they are some.

    None is reaped that may have been started while a `spawning` block of any reaper of this process is open:
    a process that dies before its pid is known stays a zombie until it is, so its status cannot be
    lost nor its pid reused. Such zombies wait for the oldest window at the longest, which a runtime
    that hangs keeps open until its call ends; what is older than that is reaped.

    Args:
        every: reap every child that no reaper waits for; else those that are claimed.
    """

    def __init__(self, *, every: bool) -> None:
        self._every = every
        self._loop: asyncio.AbstractEventLoop | None = None
        self._claims: dict[object, Callable[[int], bool]] = {}
        self._watching: set[object] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._groups: set[CommandGroup] = set()
        self._dying: set[int] = set()  # pidfds

    def open(self, loop: asyncio.AbstractEventLoop, *, sweep: bool = True) -> None:
        """Begins; see `Reaper.open`."""
        self._loop = loop
        if self._every:
            registry.add_sweeper(self, partial(loop.call_soon_threadsafe, self._sweep))
        if sweep:
            self.sweep()

    def close(self) -> None:
        """Ends; what was claimed is not any more."""
        if self._loop is None:
            return
        registry.discard_sweeper(self)
        for pidfd in self._dying:
            self._loop.remove_reader(pidfd)
        procfs.close(self._dying)
        self._dying = set()
        for group in self._groups:
            group.close()
        self._groups.clear()
        self._claims.clear()
        self._watching.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop = None

    @contextlib.contextmanager
    def spawning(self) -> Iterator[None]:
        """While it is open, nothing is reaped that was started in it."""
        with registry.spawning(self.sweep):
            yield

    def claim(self, owns: Callable[[int], bool], *, watch: bool) -> Callable[[], None]:
        """Says whose orphans certain processes are; see Reaper.claim."""
        key = object()
        self._claims[key] = owns
        if watch:
            self._watching.add(key)
        if not self._every:
            self.sweep()

        def release() -> None:
            self._watching.discard(key)
            self.sweep()
            # What has just been killed may need a moment to die, and who waits for its end does not
            # want to wait for ours.
            if self._loop is not None:
                for delay in (0.01, 0.1, PERIOD):
                    self._loop.call_later(delay, self.sweep)
                self._loop.call_later(2 * PERIOD, self._drop, key, procfs.now())

        return release

    def claim_group(self, group: CommandGroup) -> None:
        """Says that what a command has left behind is ours, and what that starts afterwards."""
        if self._loop is None or self._every:
            group.close()
            return
        release = self.claim(group.had, watch=False)
        self._groups.add(group)

        def over() -> None:
            self._groups.discard(group)
            release()

        group.watch(self._loop, over)

    def _drop(self, key: object, released: int) -> None:
        owns = self._claims.get(key)
        if self._loop is None or owns is None:
            return
        self.sweep()
        # What was started in a block that is still open could not be reaped yet, nor what has not ended.
        if registry.is_open_since(released) or _has_left(owns):
            self._loop.call_later(PERIOD, self._drop, key, released)
        else:
            del self._claims[key]

    def bury(self, killed: dict[int, int]) -> None:
        """Reaps what was killed, as far as it became our child, when all of it is dead.

        Not each as it dies: as long as its parent lives it is not ours yet.

        Args:
            killed: the pid for each pidfd; they are closed here.
        """
        loop = self._loop
        if loop is None:
            procfs.close(killed)
            return
        alive = set(killed)

        def died(pidfd: int) -> None:
            loop.remove_reader(pidfd)
            alive.discard(pidfd)
            if not alive:
                self._bury_dead(killed, self._dying, _FIRST_LOOK)

        self._dying.update(killed)
        for pidfd in killed:
            loop.add_reader(pidfd, died, pidfd)

    def _bury_dead(self, dead: dict[int, int], dying: set[int], delay: float) -> None:
        """Reaps those of the dead that are our children; the zombies of a tracer when it lets go.

        Of a container's pid namespace, such a zombie keeps the init from dying (pid_namespaces(7)).

        Args:
            dead: the pid for each pidfd.
            dying: where the pidfds are kept for `close`.
            delay: in seconds, until it looks again at what is its tracer's (ptrace(2)).
        """
        if self._loop is None or self._dying is not dying:
            return  # it was closed meanwhile
        for pidfd, pid in list(dead.items()):
            with registry.lock, contextlib.suppress(ChildProcessError):
                if not registry.knows(pid) and not os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG):
                    continue
            del dead[pidfd]
            dying.discard(pidfd)
            os.close(pidfd)
        if dead:
            self._loop.call_later(delay, self._bury_dead, dead, dying, min(2 * delay, PERIOD))

    def sweep(self) -> None:
        """Reaps those that exist now, here and in the other sweepers of this process."""
        self._sweep()
        registry.wake(self)

    def _sweep(self) -> None:
        if self._loop is None:
            return
        if self._every:
            self._sweep_all()
        elif self._claims:
            self._sweep_claimed()
            if self._timer is None:
                self._timer = self._loop.call_later(PERIOD, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        if self._watching:
            self.sweep()
        else:
            self._sweep_claimed()

    def _sweep_all(self) -> None:
        """Reaps every one.

        The kernel shows one zombie at a time; where that one is known, its owner reaps it in a
        moment and then sweeps again; so does a window that closes.
        """
        while (pid := _zombie()) is not None:
            try:
                if not _reap(pid):
                    return
            except (ChildProcessError, ProcessLookupError, FileNotFoundError):
                # A thread of asyncio's, in Python 3.11, was quicker; those behind it are still there.
                continue
            except OSError as error:
                _log.warning("cannot reap process %d: %s", pid, error)
                return

    def _sweep_claimed(self) -> None:
        first = _zombie()
        if first is None:
            return
        for pid in procfs.children(os.getpid()) or [first]:
            with contextlib.suppress(OSError):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    _reap(pid, self._is_claimed)

    def _is_claimed(self, pid: int) -> bool:
        return any(owns(pid) for owns in list(self._claims.values()))


def _reap(pid: int, owned: Callable[[int], bool] = lambda _pid: True) -> bool:
    """Reaps a child that has died, if it is an orphan and owned; returns whether it was.

    Raises:
        OSError: there is none of that pid any more.
    """
    # The program that we live in, or a reaper in another thread, may wait for it at the same time,
    # and the pid be given out again: the pidfd says that what is reaped is what was asked about.
    pidfd = os.pidfd_open(pid)
    try:
        with registry.lock:
            if not (registry.is_orphan(pid) and owned(pid)):
                return False
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    finally:
        os.close(pidfd)
    _log.debug("reaped orphan %d", pid)
    return True


def _has_left(owns: Callable[[int], bool]) -> bool:
    """Returns whether there is a child, running or a zombie, that nobody waits for and that is owned."""
    for pid in procfs.children(os.getpid()):
        with contextlib.suppress(OSError):
            if not registry.knows(pid) and owns(pid):
                return True
    return False


def _zombie() -> int | None:
    """Returns the pid of a child that has ended and was not waited for yet."""
    try:
        dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if dead is None else dead.si_pid
