"""A child subreaper that reports one exit status for each pid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from shimpy import linux
from shimpy.core.reaper import procfs
from shimpy.core.reaper.child import Child
from shimpy.core.reaper.command import Command
from shimpy.core.reaper.orphans import Orphans
from shimpy.core.reaper.subreaper import Subreaper
from shimpy.core.reaper.tracking import Tracking
from shimpy.core.tempdirs import DirectoryPool
from shimpy.errors import FailedPreconditionError


class Reaper:
    """Collects the exit statuses of processes that others forked.

    A container's processes are started by a runtime that exits at once; as a child subreaper
    (prctl(2), PR_SET_CHILD_SUBREAPER) this process becomes their parent. There is one owner of
    wait() for each child:

    1. What asyncio, or the program that we live in, has started is theirs; the reaper never touches it.
    2. What `spawn` has started, and a tracked process, is waited for by pid, when its pidfd becomes
       readable (pidfd_open(2)). SIGCHLD is not needed for it, so nothing is lost when signals merge, in
       any thread and beside any other user of SIGCHLD. See `Tracking` for those that are traced (ptrace(2)).
    3. Orphans, left behind by a process of theirs, are reaped too, though never one that
       was started while a `spawning` block is open, nor one that another reaper of this process waits for or
       may be about to. With `sweep_orphans` that is whatever else ends as our
       child, on SIGCHLD. Without, it is what `kill` has killed, and what the owner of a `claim`
       is certain of; whatever else ends is left to the program that we live in.

    What it changes in the process, from `open` until `close`: the child subreaper attribute is
    set; SIGCHLD, if it is ignored (the kernel then throws exit statuses away), is set to its
    default; with `sweep_orphans` the loop's SIGCHLD handler is taken. `close` puts each back.

    Args:
        sweep_orphans: reap every child that has no other waiter. For a process that does
            nothing else; in an embedding program it would steal the statuses of its children.

    Attributes:
        directories: for what its commands write, until `close`.
    """

    def __init__(self, *, sweep_orphans: bool = False) -> None:
        self._sweeps = sweep_orphans
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orphans = Orphans(every=sweep_orphans)
        self._tracking = Tracking(self._orphans.sweep)
        self._commands = Tracking(self._orphans.sweep, notes_exec=False)
        self.directories = DirectoryPool()
        self._restore: list[Callable[[], object]] = []

    def open(self, *, sweep: bool = True) -> None:
        """Becomes a subreaper and, with `sweep_orphans`, begins to sweep. Idempotent.

        Args:
            sweep: at once. Otherwise `sweep` has to be called before the event loop goes on, once all
                children are known that it is to spare.

        Raises:
            FailedPreconditionError: this is not the main thread, the only one that may heed a
                SIGCHLD that is ignored, or take its handler; or the event loop is not asyncio's own.
        """
        if self._loop is not None:
            return
        loop = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.BaseEventLoop):
            # Another's is not tested, and uvloop's keeps SIGCHLD for itself.
            raise FailedPreconditionError(
                f"this event loop is {type(loop).__module__}.{type(loop).__qualname__}, "
                "and a shim needs asyncio's own; use that, or shimpy.launch()"
            )
        if self._sweeps and threading.current_thread() is not threading.main_thread():
            raise FailedPreconditionError("only a loop in the main thread can sweep orphans")
        Subreaper.acquire()
        self._restore.append(Subreaper.release)
        self._loop = loop
        if self._sweeps:
            self._restore.append(partial(signal.signal, signal.SIGCHLD, signal.getsignal(signal.SIGCHLD)))
            loop.add_signal_handler(signal.SIGCHLD, self._orphans.sweep)
            self._restore.append(partial(loop.remove_signal_handler, signal.SIGCHLD))
            # The kernel first: the interpreter complains of a signal that comes while its handler is removed.
            self._restore.append(partial(linux.reset_signal, signal.SIGCHLD))
        self.directories.open()
        self._tracking.open(loop)
        self._orphans.open(loop, sweep=sweep)

    def sweep(self) -> None:
        """Reaps the orphans that there are."""
        self._orphans.sweep()

    def close(self) -> None:
        """Stops waiting for anything and puts back what `open` changed; the processes go on."""
        if self._loop is None:
            return
        self._tracking.close()
        self._orphans.close()
        self.directories.close()
        while self._restore:
            self._restore.pop()()
        self._loop = None

    def spawning(self) -> contextlib.AbstractContextManager[None]:
        """While it is open, no reaper of this process reaps an unknown child that was started in it.

        Open it before a command that makes one.
        """
        return self._orphans.spawning()

    def claim(self, owns: Callable[[int], bool], *, watch: bool) -> Callable[[], None]:
        """Has orphans reaped although we do not sweep, because it is certain whose they are.

        They are looked for whenever a process that we wait for has ended, and a second later.

        Args:
            owns: called with the pid of a zombie; True if it is certain to be one of the claim.
            watch: look each second as well, for a process that leaves orphans at any time.

        Returns:
            To be called when there will be no more of them.
        """
        return self._orphans.claim(owns, watch=watch)

    def spawn(self, *argv: str, **options: Any) -> Command:
        """Starts a child; `wait` or `kill` must be called for it, also after `close`.

        Args:
            *argv: program and arguments.
            **options: as subprocess.Popen takes them.

        Raises:
            OSError: it could not be started.
        """
        self._commands.open(asyncio.get_running_loop())
        with self.spawning():
            return Command(argv, options, self._commands)

    async def wait(self, command: Command) -> int:
        """Waits for a child that `spawn` started; returns its code, negative for a signal."""
        await command.ended.wait()
        code = command.returncode
        if code is None:
            raise RuntimeError(f"process {command.pid} has not ended")
        if code != 0:
            # It was killed, or gave up half way: its helpers are orphans, dead ones possibly.
            self._orphans.claim_group(command.group)
        return code

    async def kill(self, command: Command) -> None:
        """Kills a child that `spawn` started, with all that it has started, and waits for it.

        That is its process group, where a runtime's helpers are, and what descends from it, where
        the process is that it was about to tell of. What a helper left behind that has ended
        before, in a group of its own, is not to be found.
        """
        held: dict[int, int] = {}
        with command.child.held() as pidfd:
            try:
                # Once it was waited for, its pid may be another's.
                if pidfd >= 0 and procfs.is_there(pidfd):
                    held[pidfd] = command.pid
                    # Stopped first: what one of them was forking would be missed.
                    await procfs.stop_descent(held)
            finally:
                if held and procfs.is_there(pidfd):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(command.pid, signal.SIGKILL)
                for each in held:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(each, signal.SIGKILL)
                held.pop(pidfd, None)
                try:
                    # Helpers that were not found in time, on a busy machine, are claimed there.
                    await self.wait(command)
                finally:
                    # Not before: as long as it lives, its children are not ours.
                    self._orphans.bury(held)

    def track(
        self, pid: int, on_exit: Callable[[int], None], before_reap: Callable[[int], None] | None = None
    ) -> Child:
        """Waits for a child by its pid from now on; see `Tracking.track`."""
        return self._tracking.track(pid, on_exit, before_reap)

    def watch(
        self,
        pid: int,
        pidfd: int,
        on_exit: Callable[[int], None],
        seen: Callable[[int], None] | None = None,
        *,
        is_foreign: bool = True,
    ) -> Child:
        """Waits for the end of a process that an earlier shim had started.

        Args:
            pid: its process id.
            pidfd: a file descriptor of it, which is closed here in the end.
            on_exit: as for `track`.
            seen: called with the exit status, before `on_exit`.
            is_foreign: it is another's child. Otherwise that earlier shim was this very process, which has
                become another program since (execve(2)).

        Raises:
            ValueError: it is waited for already.
        """
        return self._tracking.adopt(pid, pidfd, on_exit, seen, is_foreign=is_foreign)

    def ended(self, pid: int, status: int) -> Child:
        """Returns what stands for a process that has ended, and been reaped, before.

        Args:
            pid: its process id.
            status: its exit status.
        """
        return self._tracking.ended(pid, status)

    def is_child(self, pid: int) -> bool:
        """Whether a process is a child of this one, running or a zombie."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True
