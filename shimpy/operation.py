"""Work that takes full effect or none, whoever stops waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from .errors import ShimError

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
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._reason is not None and current is not None and not current.cancelling():
                raise self._reason from None
            if self._waiters == 1:
                self._cancel()
                await asyncio.wait([self._task])
            raise
        finally:
            self._waiters -= 1

    def _over(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            # An error that nobody is left to see is no fault that the loop has to report.
            task.exception()
        if self._then is not None:
            self._then(self)

    def _cancel(self) -> None:
        if not self.ending:
            self._cancelled = True
            self._task.cancel()
