"""Threads with event loops of their own, for coroutines that may block: they hold up only their own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from shimpy.errors import ResourceExhaustedError

T = TypeVar("T")

# Seconds after which a loop that has not begun a call is taken to be blocked.
STALL: Final = 1.0

# Loops of one LoopThread that may be blocked at one time.
MAX_BLOCKED: Final = 8


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What came of a call: a value, or what it raised."""

    value: T | None
    error: BaseException | None


class LoopThread:
    """Runs coroutines in a thread's event loop, and in that of another thread when that one is blocked.

    It may be used from any number of event loops. Its threads do not keep the process from ending.

    Args:
        name: of its threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._blocked: list[_Worker] = []

    async def run(self, work: Callable[[], Awaitable[T]], limit: float) -> Outcome[T]:
        """Runs a coroutine; whatever it raises becomes the outcome.

        Args:
            work: called in the thread; what it returns is awaited there, and cancelled when this call is.
            limit: seconds that it may take.

        Raises:
            TimeoutError: it took longer.
            ResourceExhaustedError: too many of the threads are blocked.
        """
        job = _Job(work)
        self._submit(job)
        checking = asyncio.get_running_loop().call_later(STALL, self._check, job)
        try:
            async with asyncio.timeout(limit):
                return await job.result
        finally:
            checking.cancel()
            job.cancel()

    def close(self) -> None:
        """Ends its threads once what they have begun is over. Idempotent; the next `run` begins anew."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.retire()

    def _submit(self, job: _Job[Any]) -> None:
        with self._lock:
            if self._worker is None:
                self._blocked = [worker for worker in self._blocked if worker.is_alive]
                if len(self._blocked) >= MAX_BLOCKED:
                    raise ResourceExhaustedError(
                        f"{self._name} has blocked {MAX_BLOCKED} threads, and gets no other"
                    )
                self._worker = _Worker(self._name)
            job.worker = self._worker
        job.worker.submit(job)

    def _check(self, job: _Job[Any]) -> None:
        """Gives a job that has not begun to a new thread."""
        if job.worker is None or job.has_begun:
            return
        with self._lock:
            if self._worker is job.worker:
                self._blocked.append(job.worker)
                job.worker.retire()
                self._worker = None
        try:
            self._submit(job)
        except (ResourceExhaustedError, RuntimeError, OSError) as error:
            job.fail(error)


class _Job(Generic[T]):
    """One call, which is begun once, by whichever thread comes first.

    Attributes:
        result: its outcome, in the event loop that it was made in.
        worker: the thread that it was given to last.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Outcome[T]] = self._loop.create_future()
        self.worker: _Worker | None = None
        self._work = work
        self._lock = threading.Lock()
        self._begun = False
        self._cancelled = False
        self._task: asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a thread has begun it, or it is over."""
        return self._begun or self._cancelled

    async def run(self) -> None:
        """Does it in a thread's loop, unless another has begun it."""
        # Not earlier: what comes before it in this loop may block.
        with self._lock:
            if self.has_begun:
                return
            self._begun = True
            self._task = asyncio.current_task()
        outcome: Outcome[T]
        try:
            outcome = Outcome(await self._work(), None)
        except BaseException as error:  # noqa: BLE001 - also what would end this thread
            outcome = Outcome(None, error)
        with contextlib.suppress(RuntimeError):  # the caller's loop is closed
            self._loop.call_soon_threadsafe(self._deliver, outcome)

    def cancel(self) -> None:
        """Cancels it, unless it is over. Idempotent."""
        with self._lock:
            self._cancelled = True
            task = self._task
        if task is not None and not task.done():
            with contextlib.suppress(RuntimeError):  # its loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)

    def fail(self, error: Exception) -> None:
        """Ends it with an error of ours; called in its caller's loop."""
        if not self.result.done():
            self.result.set_exception(error)

    def _deliver(self, outcome: Outcome[T]) -> None:
        if not self.result.done():
            self.result.set_result(outcome)


class _Worker:
    """One thread with its event loop."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._active: set[asyncio.Task[None]] = set()
        self._retired = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread has not ended."""
        return self._thread.is_alive()

    def submit(self, job: _Job[Any]) -> None:
        """Has it begin a job; a job that comes too late for it is found again by its `LoopThread`."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._begin, job)

    def retire(self) -> None:
        """Ends it once what it has begun is over."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._retire)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            # What hooks have begun on their own goes with it.
            if left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(left))
        finally:
            self._loop.close()

    def _begin(self, job: _Job[Any]) -> None:
        task = self._loop.create_task(job.run())
        self._active.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._end_if_idle()

    def _retire(self) -> None:
        self._retired = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._retired and not self._active:
            self._loop.stop()
