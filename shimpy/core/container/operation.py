"""Work that takes full effect or none, even if its callers stop waiting for it."""

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
        on_done: called with this operation once the work is done, before its waiters are woken.
    """

    def __init__(
        self, work: Coroutine[Any, Any, T], on_done: Callable[[Operation[T]], object] | None = None
    ) -> None:
        self._task = asyncio.get_running_loop().create_task(work)
        self._on_done = on_done
        self._task.add_done_callback(self._over)
        self._waiters = 0
        self._cancelled = False
        self._reason: ShimError | None = None

    @property
    def cancelling_or_done(self) -> bool:
        """True once it has been cancelled, or is over."""
        return self._cancelled or self._task.done()

    @property
    def task(self) -> asyncio.Task[Any]:
        """What does the work."""
        return self._task

    @property
    def done(self) -> bool:
        """True once the work is over, its rollback included."""
        return self._task.done()

    def abort(self, reason: ShimError) -> None:
        """Cancels the work; its waiters get the reason instead of a result."""
        if not self.cancelling_or_done:
            self._reason = reason
            self._cancel()

    async def wait(self) -> None:
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
            # An error without a waiter left must not be reported by the event loop.
            task.exception()
        if self._on_done is not None:
            self._on_done(self)

    def _cancel(self) -> None:
        if not self.cancelling_or_done:
            self._cancelled = True
            # Not before its first step: what never began could not give back what it was given.
            asyncio.get_running_loop().call_soon(self._task.cancel)


async def undo(rollback: Coroutine[Any, Any, None]) -> None:
    """Runs a rollback to its end; a cancellation that comes meanwhile takes effect after that.

    One that follows an error needs it: the work that it is part of can still be cancelled, once.

    Args:
        rollback: gives back what the work has taken.
    """
    task = asyncio.get_running_loop().create_task(rollback)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


class Operations:
    """What is under way at one time; at most one operation is exclusive.

    Args:
        ended: called after each operation's end.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._under_way: set[Operation[Any]] = set()
        self._exclusive: tuple[str, Operation[Any]] | None = None

    def __iter__(self) -> Iterator[Operation[Any]]:
        return iter(list(self._under_way))

    def __bool__(self) -> bool:
        return bool(self._under_way)

    @property
    def exclusive(self) -> str | None:
        """What the exclusive operation does to the container, such as "started"; None without one."""
        return None if self._exclusive is None else self._exclusive[0]

    def exclusive_name(self, operation: Operation[Any]) -> str | None:
        """Returns what an operation does to the container if it is the exclusive one."""
        return self._exclusive[0] if self._exclusive is not None and self._exclusive[1] is operation else None

    def begin(self, work: Coroutine[Any, Any, T], exclusive: str | None = None) -> Operation[T]:
        """Starts an operation.

        Args:
            work: as Operation takes it.
            exclusive: what it does to the container, when no other such operation may run beside it.
        """
        operation = Operation(work, self._over)
        self._under_way.add(operation)
        if exclusive is not None:
            self._exclusive = (exclusive, operation)
        return operation

    async def wait_rolled_back(self) -> None:
        """Waits while a cancelled exclusive operation is rolled back, so that it can be tried again."""
        while self._exclusive is not None and self._exclusive[1].cancelling_or_done:
            await self._exclusive[1].wait()

    async def cancel_all(self, reason: ShimError) -> None:
        """Aborts every operation, and waits until each is rolled back."""
        operations = list(self)
        for operation in operations:
            operation.abort(reason)
        for operation in operations:
            await operation.wait()

    def _over(self, operation: Operation[Any]) -> None:
        self._under_way.discard(operation)
        if self.exclusive_name(operation) is not None:
            self._exclusive = None
        self._ended()
