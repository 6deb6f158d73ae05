"""Waiting for processes to exit."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

from shimpy.client.model import Event, EventType, ProcessState
from shimpy.errors import ResourceExhaustedError, ShimError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimpy.client.shim_calls import ShimCalls
    from shimpy.client.subscription import EventStream


class Exit(NamedTuple):
    """The end of a process.

    Attributes:
        status: its exit code, or 128 + the signal; None: that was not heard, and Delete tells it.
        oom: the OOM killer struck in the container while it was there.
    """

    status: int | None
    oom: bool = False


class ExitWatch:
    """Tells who started a process when it has exited, over one subscription for all of them.

    An EXIT may come before the reply that names its pid, so while a call that starts a process is
    under way every EXIT is kept; the event that announces the process tells it from an earlier
    process that had the same pid.
    """

    def __init__(self, client: ShimCalls) -> None:
        self._client = client
        self._opening = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._waiting: dict[int, list[asyncio.Future[Exit]]] = {}
        self._starting = 0
        self._count = 0
        self._losses = 0
        self._added: dict[int, int] = {}
        self._exited: dict[int, tuple[int, Exit]] = {}
        self._ooms = 0
        # How many there had been when a process came, for those that have not exited.
        self._ooms_before: dict[int, int] = {}

    async def start(self, start: Callable[[], Awaitable[int]]) -> tuple[int, asyncio.Future[Exit]]:
        """Starts a process.

        Args:
            start: starts it and returns its pid.

        Returns:
            Its pid, and what becomes its end. It fails when the shim is lost.
        """
        await self._subscribed()
        first, losses = self._count, self._losses
        self._starting += 1
        try:
            pid = await start()
            added, ended = self._exited.pop(pid, (0, Exit(None)))
            exited = self._future(pid)
            if added > first:
                self._tell(pid, ended)
        finally:
            self._starting -= 1
            if not self._starting:
                self._added.clear()
                self._exited.clear()
        if losses != self._losses:
            await self._catch_up()
        return pid, exited

    async def watch(self, pid: int) -> asyncio.Future[Exit]:
        """Returns what becomes the exit status of a process that is there already, as above."""
        await self._subscribed()
        exited = self._future(pid)
        await self._catch_up()
        return exited

    def oom(self, pid: int) -> bool:
        """Returns whether the OOM killer has struck since a process came that is not known to have exited."""
        return self._ooms != self._ooms_before.get(pid, self._ooms)

    async def aclose(self) -> None:
        """Ends the subscription; pending waits fail: the shim is gone."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _subscribed(self) -> None:
        async with self._opening:
            if self._task is None or self._task.done():
                events = self._client.events()
                await events.__aenter__()
                self._task = asyncio.ensure_future(self._follow(events))

    async def _follow(self, events: EventStream) -> None:
        failure: ShimError = _lost()
        try:
            while True:
                try:
                    async with events:
                        if self._losses:
                            await self._catch_up()
                        async for event in events:
                            self._note(event)
                except ResourceExhaustedError:  # this program did not read for too long
                    self._losses += 1
                    events = self._client.events()
                else:
                    return
        except ShimError as error:
            failure = error
        finally:
            for pid in list(self._waiting):
                self._tell(pid, failure)

    def _note(self, event: Event) -> None:
        self._count += 1
        if event.type in {EventType.CREATE, EventType.EXEC_ADDED}:
            self._ooms_before[event.pid] = self._ooms
            if self._starting:
                self._added[event.pid] = self._count
        elif event.type is EventType.OOM:
            self._ooms += 1
        elif event.type is EventType.EXIT:
            added = self._added.pop(event.pid, None)
            ended = Exit(event.exit_status, self.oom(event.pid))
            self._ooms_before.pop(event.pid, None)
            if event.pid in self._waiting:
                self._tell(event.pid, ended)
            elif added is not None:
                self._exited[event.pid] = (added, ended)

    async def _catch_up(self) -> None:
        """Asks the shim who is left, after events have been lost."""
        state = await self._client.state()
        alive = {p.pid for p in state.processes if p.state is not ProcessState.STOPPED}
        for pid in self._waiting.keys() - alive:
            self._tell(pid, Exit(None, self.oom(pid)))
        for pid in self._ooms_before.keys() - alive:
            del self._ooms_before[pid]

    def _future(self, pid: int) -> asyncio.Future[Exit]:
        exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(pid, []).append(exited)
        if self._task is None or self._task.done():
            self._tell(pid, _lost())
        return exited

    def _tell(self, pid: int, outcome: Exit | ShimError) -> None:
        for exited in self._waiting.pop(pid):
            if exited.done():  # who waited has left
                continue
            if isinstance(outcome, ShimError):
                exited.set_exception(outcome)
                exited.exception()  # seen: who leaves now need not hear of it
            else:
                exited.set_result(outcome)


def _lost() -> UnavailableError:
    return UnavailableError("the shim has shut down")
