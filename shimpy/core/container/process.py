"""One process of a container: what init and exec'd processes have in common."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from shimpy.core.cgroup import Tree
from shimpy.core.container.operation import Operation
from shimpy.core.model import Policy, StdioPaths
from shimpy.core.reaper import LOST_STATUS, Child, Reaper
from shimpy.core.stdio import ProcessIO, check_window
from shimpy.errors import FailedPreconditionError

if TYPE_CHECKING:
    from shimpy.core.container.journaled import ContainerJournal
    from shimpy.core.hooks.container_hooks import Hooked

_log = logging.getLogger(__name__)


class Process:
    """A process of a container, from before the runtime has started it until it is deleted.

    Exits are published in order: one that is reaped before the process itself was announced is held until
    `announce`.

    Args:
        stdio: what it reads and writes, as its client named it.
        io: the same, opened.
        policy: how it lives.
        on_exit: called in the event loop when the process has exited and been announced.
        on_death: called as soon as it has exited, announced or not.
        exec_id: its name in the container; "" for init, and for an exec that is named after its pid once it
            has one.
        spec: the `process` object of the OCI runtime-spec; of an exec that is not started yet.
        hooked: what hooks know of it; None if there are none.
        journal: is told of it before anybody else; None if there is none.

    Attributes:
        stdio: see above.
        io: see above.
        policy: see above.
        exec_id: see above.
        spec: see above.
        hooked: see above.
        cgroup: its own cgroup, from its start until that is removed.
        child: the reaper's hold on it, once the runtime has told its pid.
        starting: the start of an exec that was registered, from its beginning on.
        exited_at: when its exit was noticed, in nanoseconds since the epoch; 0 while it lives.
        deletion: its delete, while one is under way.
        deleted: True once it is forgotten.
        number: by which the journal knows it, 0 until it is in there.
        identity: what no process has that gets its pid later; None if nobody has to know.
        size: columns and rows of its terminal, None if nobody has set them.
    """

    __slots__ = (
        "_announced",
        "_exit_published",
        "_journal",
        "_on_death",
        "_on_exit",
        "_start_failed",
        "_waiters",
        "cgroup",
        "child",
        "deleted",
        "deletion",
        "exec_id",
        "exited_at",
        "hooked",
        "identity",
        "io",
        "number",
        "policy",
        "size",
        "spec",
        "starting",
        "stdio",
    )

    def __init__(
        self,
        stdio: StdioPaths,
        io: ProcessIO,
        policy: Policy,
        on_exit: Callable[[Process], None],
        on_death: Callable[[], None] | None = None,
        *,
        exec_id: str = "",
        spec: Mapping[str, Any] | None = None,
        hooked: Hooked | None = None,
        journal: ContainerJournal | None = None,
    ) -> None:
        self.stdio = stdio
        self.io = io
        self.policy = policy
        self.exec_id = exec_id
        self.spec = spec
        self.hooked = hooked
        self.cgroup: Tree | None = None
        self.child: Child | None = None
        self.starting: Operation[None] | None = None
        self.exited_at = 0
        self.deletion: Operation[int] | None = None
        self.deleted = False
        self.number = 0
        self.identity: tuple[int, int] | None = None
        self.size: tuple[int, int] | None = None
        self._journal = journal
        self._on_exit = on_exit
        self._on_death = on_death
        self._announced = False
        self._exit_published = False
        self._start_failed = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def pid(self) -> int:
        """Its process id; 0 until the runtime has told it."""
        return 0 if self.child is None else self.child.pid

    @property
    def exit_status(self) -> int | None:
        """None while it lives, then the exit code, or 128 + the number of the signal."""
        if self._start_failed:
            return LOST_STATUS
        return None if self.child is None else self.child.exit_status

    @property
    def has_execed(self) -> bool:
        """Whether it has begun another program than the one that forked it; see `reaper.Child`."""
        return self.child is not None and self.child.has_execed

    @property
    def final_status(self) -> int:
        """The exit status of a process that has exited."""
        if self.exit_status is None:
            raise RuntimeError(f"process {self.pid} has not exited")
        return self.exit_status

    @property
    def exit_ready(self) -> bool:
        """True when its exit may be published, and has not been."""
        return self._announced and not self._exit_published and self.exit_status is not None

    @property
    def is_exit_published(self) -> bool:
        """True once its exit has been published, its start has failed, or it is deleted unstarted."""
        return self._exit_published

    def track(self, reaper: Reaper, pid: int) -> None:
        """Takes the pid that the runtime told; from now on its exit is noticed."""
        if self._journal is None:
            self.child = reaper.track(pid, self._exited)
            return
        self.child = child = reaper.track(pid, self._exited, self._died)
        self.identity = self._journal.identify(child)

    def watch(
        self, reaper: Reaper, pid: int, pidfd: int, identity: tuple[int, int], *, is_foreign: bool
    ) -> None:
        """Takes up a process of an earlier shim; from now on its exit is noticed.

        Args:
            reaper: notices it.
            pid: its process id.
            pidfd: a file descriptor of it, which is the reaper's from now on.
            identity: see the attribute.
            is_foreign: see `Reaper.watch`.
        """
        self.identity = identity
        self.child = reaper.watch(pid, pidfd, self._exited, self._died, is_foreign=is_foreign)

    def has_ended(self, reaper: Reaper, pid: int, status: int, *, told: bool) -> None:
        """Takes up a process of an earlier shim that has ended.

        Args:
            reaper: would have noticed it.
            pid: its process id.
            status: its exit status.
            told: its exit has been published.
        """
        self.child = reaper.ended(pid, status)
        if not self.exited_at:
            self._died(status)
        self._exit_published = told
        self.io.process_exited()

    def announce(self) -> None:
        """Says that what precedes its exit has been published; an exit that was held is published now."""
        self._announced = True
        self._publish_exit()

    async def start_settled(self) -> None:
        """Waits until a start that is under way has ended, whatever came of it."""
        if self.starting is not None:
            await self.starting.wait()

    async def exited(self) -> None:
        """Waits until it has been reaped, published or not."""
        while self.child is not None and self.child.exit_status is None:
            await self._next()

    async def exit_published(self) -> None:
        """Waits until its exit has been published, its start has failed, or it is deleted unstarted."""
        while not self._exit_published:
            await self._next()

    def mark_start_failed(self) -> None:
        """Notes that it will never run: its waiters get status 255."""
        self._start_failed = True
        self.exited_at = time.time_ns()
        self.mark_exit_published()

    def mark_exit_published(self) -> None:
        """Notes that its exit is published, and wakes who waits for that."""
        self._exit_published = True
        self._wake()

    def mark_deleted(self) -> None:
        """Notes that it is forgotten; one that was never started has no exit that a waiter could wait for."""
        self.deleted = True
        if self.child is None:
            self.mark_exit_published()

    def resize(self, width: int, height: int) -> None:
        """Sets the window size of its terminal, also before it is started.

        Args:
            width: in columns.
            height: in rows.
        """
        check_window(width, height)
        if self.exit_status is not None:
            raise FailedPreconditionError(f"pid: process {self.pid} is stopped")
        self.io.resize(width, height)
        self.size = width, height
        if self._journal is not None:
            self._journal.resized(self, width, height)

    async def kill(self) -> None:
        """Kills it with everything that it started, and waits until it has been reaped.

        With a cgroup of its own nothing escapes. Without one, what left it for another parent,
        a double-forked daemon for instance, lives on until the container is deleted.
        """
        if self.child is not None:
            self.child.kill()
        if (cgroup := self.cgroup) is not None:  # it is removed when the process exits
            await cgroup.kill()
            await cgroup.prune()
        await self.exited()

    def remove_cgroup(self) -> None:
        """Removes its cgroup, unless something that it started still runs there."""
        if self.cgroup is not None and self.cgroup.remove():
            self.cgroup = None

    def release(self) -> None:
        """Closes what it read and wrote, and removes its cgroup. Idempotent."""
        self.io.close()
        self.remove_cgroup()

    def _died(self, status: int) -> None:
        self.exited_at = time.time_ns()
        if self._journal is not None:
            self._journal.died(self, status)

    def _exited(self, status: int) -> None:
        self.exited_at = self.exited_at or time.time_ns()
        _log.info("process %d exited with status %d", self.pid, status)
        self.io.process_exited()
        self._wake()
        if self._on_death is not None:
            self._on_death()
        self._publish_exit()

    def _publish_exit(self) -> None:
        if self.exit_ready:
            self._on_exit(self)

    async def _next(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
