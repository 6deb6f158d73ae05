"""Work that takes full effect or none, whoever stops waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

from shimpy.errors import ShimError

T = TypeVar("T")


class Operation(Generic[T]):
    """A coroutine that runs in a task of its own, is cancelled at most once, and may be shared.

    Cancellation can reach a call at any await, several times, while it is rolling back. Here the
    work is cancelled once, when the last that waited for it has gone, so its rollback may await
    whatever it has to; and who gave up waits until the rollback is over, so that the same call can
    be made again at once.

    Args:
        work: the coroutine; when it is cancelled it undoes what it did and lets the
            CancelledError out, or completes.
        then: called with this operation once the work is over, before anybody hears of it.
    """

    def __init__(
        self, work: Coroutine[Any, Any, T], then: Callable[[Operation[T]], object] | None = None
    ) -> None:
        self._task = asyncio.get_running_loop().create_task(work)
        self._then = then
        self._task.add_done_callback(self._over)
        self._waiters = 0
        self._cancelled = False
        self._reason: ShimError | None = None

    @property
    def ending(self) -> bool:
        """True once it has been called off, or is over."""
        return self._cancelled or self._task.done()

    @property
    def over(self) -> bool:
        """True once the work is over, its rollback included."""
        return self._task.done()

    def abort(self, reason: ShimError) -> None:
        """Calls the work off; whoever waits for it gets the reason instead of a result."""
        if not self.ending:
            self._reason = reason
            self._cancel()

    async def settled(self) -> None:
        """Waits until the work is over, whatever came of it, and never ends it."""
        await asyncio.wait([self._task])

    async def result(self) -> T:
        """Waits for the work and returns what it gave.

        Raises:
            ShimError: what the work raised, or the reason that it was aborted for.
        """
        self._waiters += 1
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            if self._waiters == 1:
                self._cancel()
                await asyncio.wait([self._task])
            raise
        finally:
            self._waiters -= 1
        if self._task.cancelled() and self._reason is not None:
            raise self._reason
        return self._task.result()

    def _over(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            # An error that nobody is left to see is no fault that the loop has to report.
            task.exception()
        if self._then is not None:
            self._then(self)

    def _cancel(self) -> None:
        if not self.ending:
            self._cancelled = True
            # Not before its first step: what never began could not give back what it was given.
            asyncio.get_running_loop().call_soon(self._task.cancel)


class Operations:
    """What is under way at one time; at most one of it is a change, which excludes others.

    Args:
        ended: called after each operation's end.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._under_way: set[Operation[Any]] = set()
        self._change: tuple[str, Operation[Any]] | None = None

    def __iter__(self) -> Iterator[Operation[Any]]:
        return iter(list(self._under_way))

    def __bool__(self) -> bool:
        return bool(self._under_way)

    @property
    def change(self) -> str | None:
        """What is being changed, if anything is."""
        return None if self._change is None else self._change[0]

    def begin(self, work: Coroutine[Any, Any, T], change: str | None = None) -> Operation[T]:
        """Starts an operation.

        Args:
            work: as Operation takes it.
            change: what it changes, when nothing else may change meanwhile.
        """
        operation = Operation(work, self._over)
        self._under_way.add(operation)
        if change is not None:
            self._change = (change, operation)
        return operation

    async def rolled_back(self) -> None:
        """Waits while a change that was called off is being rolled back, so that it can be made again."""
        while self._change is not None and self._change[1].ending:
            await self._change[1].settled()

    async def call_off(self, reason: ShimError) -> None:
        """Aborts all of it, and waits until it is rolled back."""
        operations = list(self)
        for operation in operations:
            operation.abort(reason)
        for operation in operations:
            await operation.settled()

    def _over(self, operation: Operation[Any]) -> None:
        self._under_way.discard(operation)
        if self._change is not None and self._change[1] is operation:
            self._change = None
        self._ended()
