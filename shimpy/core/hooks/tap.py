"""What passes a process's output on to those who asked for a tee of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

from shimpy.core.hooks.hook_set import HookFailure, HookRunner, HookSet
from shimpy.core.hooks.interface import Tee
from shimpy.errors import ShimError

# Bytes that may wait for a tee before its process does.
_ROOM: Final = 1 << 20

# Output is passed on when there is so much, in bytes, or after so many seconds: each time wakes a thread.
_ENOUGH: Final = 1 << 18
_GATHER: Final = 0.5

# Output that comes within so many seconds is one piece for the tee, which is less than a picture on a screen
# lasts, up to so many bytes, as a program could write at once.
_PIECE: Final = 0.01
_PIECE_SIZE: Final = 1 << 16

_log = logging.getLogger(__name__)


class Tap(Protocol):
    """What stdio gives a copy of a process's output to. It never waits."""

    @property
    def is_full(self) -> bool:
        """Whether no more should be read from the process for now."""

    def on_room(self, callback: Callable[[], object]) -> None:
        """Has a callback called once it is not full any more; each time anew, one for each stream."""

    def write(self, stream: str, data: bytes) -> None:
        """Takes a copy of output."""

    def resized(self, columns: int, rows: int) -> None:
        """Takes note of the size of the terminal."""

    def end(self) -> None:
        """Nothing follows. Idempotent."""


class TeeTap:
    """Passes output on to tees; see `Tap`.

    Args:
        hook_set: waits for it at the end of the shim.
        tees: each with the hooks that it is of.
        name: of the process, for the log.
    """

    def __init__(self, hook_set: HookSet, tees: Sequence[tuple[HookRunner, Tee]], name: str) -> None:
        self._lines = [_TeeQueue(hook_set, runner, tee, name, self._moved) for runner, tee in tees]
        self._callbacks: list[Callable[[], object]] = []
        self._ended = False

    @property
    def is_full(self) -> bool:
        return any(line.waiting >= _ROOM for line in self._lines)

    def on_room(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)

    def write(self, stream: str, data: bytes) -> None:
        now = time.time()
        for line in self._lines:
            line.put_output(stream, data, now)

    def resized(self, columns: int, rows: int) -> None:
        now = time.time()
        for line in self._lines:
            line.put(lambda tee: tee.resized(columns, rows, now), 0)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._callbacks.clear()
            for line in self._lines:
                line.put(lambda tee: tee.ended(), _ENOUGH)

    def _moved(self) -> None:
        if self._callbacks and not self.is_full:
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                callback()


class _Output:
    """A call of `Tee.output`, until it is made.

    Args:
        stream: of which output is.
        data: its beginning.
        time: when that came.
    """

    def __init__(self, stream: str, data: bytes, time: float) -> None:
        self._stream = stream
        self._parts = [data]
        self._size = len(data)
        self._time = time

    def __call__(self, tee: Tee) -> Awaitable[None]:
        return tee.output(self._stream, b"".join(self._parts), self._time)

    def add(self, stream: str, data: bytes, time: float) -> bool:
        """Adds what follows at once; returns whether it does."""
        if (
            stream != self._stream
            or not 0 <= time - self._time < _PIECE
            or self._size + len(data) > _PIECE_SIZE
        ):
            return False
        self._parts.append(data)
        self._size += len(data)
        return True


class _TeeQueue:
    """What one tee has not been told yet.

    Attributes:
        waiting: bytes of it.
    """

    def __init__(
        self, hook_set: HookSet, runner: HookRunner, tee: Tee, name: str, moved: Callable[[], None]
    ) -> None:
        self.waiting = 0
        self._hook_set = hook_set
        self._runner = runner
        self._tee = tee
        self._name = name
        self._moved = moved
        self._calls: list[Callable[[Tee], Awaitable[None]]] = []
        self._enough = asyncio.Event()
        self._failed = False
        self._sending: asyncio.Task[None] | None = None

    def put(self, call: Callable[[Tee], Awaitable[None]], size: int) -> None:
        """Queues a call.

        Args:
            call: makes it.
            size: bytes that it brings.
        """
        if not self._failed:
            self._calls.append(call)
            self._count(size)

    def put_output(self, stream: str, data: bytes, time: float) -> None:
        """Queues output, with what is queued already if that has just come.

        Args:
            stream: `stdout` or `stderr`.
            data: the output.
            time: when it came.
        """
        if not self._failed:
            last = self._calls[-1] if self._calls else None
            if not isinstance(last, _Output) or not last.add(stream, data, time):
                self._calls.append(_Output(stream, data, time))
            self._count(len(data))

    def _count(self, size: int) -> None:
        self.waiting += size
        if self.waiting >= _ENOUGH:
            self._enough.set()
        if self._sending is None or self._sending.done():
            self._sending = self._hook_set.begin(self._send())

    async def _send(self) -> None:
        name = self._runner.name(f"tee of {self._name}")
        while self._calls:
            try:
                async with asyncio.timeout(_GATHER):
                    await self._enough.wait()
            except TimeoutError:
                pass
            self._enough.clear()
            calls, self._calls = self._calls, []
            size = self.waiting
            try:
                await self._runner.run(name, partial(_deliver, self._tee, calls))
            except (HookFailure, ShimError) as error:
                _log.warning("%s; it is told no more", error)
                await self._give_up(name)
                return
            self.waiting -= size
            self._moved()

    async def _give_up(self, name: str) -> None:
        self._failed = True
        self._calls.clear()
        self.waiting = 0
        self._moved()
        with contextlib.suppress(HookFailure, ShimError):
            await self._runner.run(name, self._tee.ended)


async def _deliver(tee: Tee, calls: Sequence[Callable[[Tee], Awaitable[None]]]) -> None:
    for call in calls:
        await call(tee)
