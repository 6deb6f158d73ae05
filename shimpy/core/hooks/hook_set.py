"""The hooks that are given to a shim, each with its thread, and how one of them is asked."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from shimpy.core.hooks.interface import Hooks
from shimpy.core.hooks.loop_thread import LoopThread
from shimpy.errors import DeadlineExceededError, InternalError, ShimError

T = TypeVar("T")

# Seconds at the end of a shim for what hooks have not been told yet.
FLUSH: Final = 0.8

_log = logging.getLogger(__name__)


class HookRunner:
    """One object with hooks, and the thread that it runs in.

    Args:
        hooks: the object.
        thread: its thread; that of the same object in another shim of this process is the same.
    """

    def __init__(self, hooks: Hooks, thread: LoopThread) -> None:
        self.hooks = hooks
        self._thread = thread

    def has(self, method: str) -> bool:
        """Returns whether its class overrides a method, or the object itself does."""
        return getattr(type(self.hooks), method) is not getattr(Hooks, method) or method in vars(self.hooks)

    async def ask(self, method: str, *arguments: object) -> object:
        """Calls a method that may refuse, and returns what it returns.

        Raises:
            ShimError: it refused, or it failed and that is to refuse.
        """
        try:
            return await self.call(method, *arguments)
        except HookFailure as failure:
            self.complain(failure.error)
            return None

    def complain(self, error: ShimError) -> None:
        """Raises an error of the hook's own, or logs it, as the hook says."""
        if self.hooks.on_error != "log":
            raise error
        _log.warning("%s", error)

    async def tell(self, method: str, *arguments: object) -> None:
        """Calls a method that has no say; what goes wrong is logged."""
        try:
            await self.call(method, *arguments)
        except (HookFailure, ShimError) as error:
            _log.warning("%s", error)

    async def call(self, method: str, *arguments: object) -> object:
        """Calls a method within its time limit.

        Raises:
            HookFailure: it failed, or took too long.
            ShimError: it raised one itself.
        """
        return await self.run(self.name(method), lambda: getattr(self.hooks, method)(*arguments))

    async def run(self, name: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """Runs a coroutine in the thread of these hooks, within their time limit.

        Args:
            name: for messages.
            work: called in the thread; what it returns is awaited there.

        Raises:
            HookFailure: it failed, or took too long.
            ShimError: it raised one itself.
        """
        limit = self.hooks.time_limit
        try:
            outcome = await self._thread.run(work, limit)
        except TimeoutError:
            raise HookFailure(DeadlineExceededError(f"{name} did not return within {limit:g} s")) from None
        except ShimError as error:
            raise HookFailure(error) from error
        raised = outcome.error
        if isinstance(raised, ShimError):
            raise raised
        if raised is not None:
            said = f"{type(raised).__name__}: {raised}" if str(raised) else type(raised).__name__
            _log.warning("%s failed", name, exc_info=raised)
            raise HookFailure(InternalError(f"{name} failed: {said}"))
        return outcome.value

    def name(self, method: str) -> str:
        """Returns the name of a method, for messages."""
        return f"hook {type(self.hooks).__name__}.{method}"


class HookFailure(Exception):  # noqa: N818 - it is not an error that anyone outside sees
    """A hook has failed.

    Attributes:
        error: what a client is told of it.
    """

    def __init__(self, error: ShimError) -> None:
        super().__init__(str(error))
        self.error = error


class HookSet:
    """Hooks in the order in which they are asked, and what is under way to tell them of.

    Args:
        hooks: the objects; see `check_hooks`.
    """

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        self._hooks = tuple(hooks)
        self.runners = tuple(HookRunner(each, _threads.acquire(each)) for each in self._hooks)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts what tells hooks something; at the end of the shim it is waited for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """Waits for a moment until the hooks have been told all, and ends their threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=FLUSH)
            for task in late:
                task.cancel()
            if late:
                _log.warning("hooks were not told all that happened: they take too long")
                await asyncio.wait(late)
        for each in self._hooks:
            _threads.release(each)


class _Threads:
    """The thread of each object with hooks, however many shims of this process it is given to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[int, tuple[LoopThread, int]] = {}

    def acquire(self, hooks: Hooks) -> LoopThread:
        with self._lock:
            default = LoopThread(f"hook {type(hooks).__name__}")
            thread, users = self._users.get(id(hooks), (default, 0))
            self._users[id(hooks)] = thread, users + 1
            return thread

    def release(self, hooks: Hooks) -> None:
        with self._lock:
            thread, users = self._users.pop(id(hooks))
            if users > 1:
                self._users[id(hooks)] = thread, users - 1
                return
        thread.close()


_threads: Final = _Threads()


def check_hooks(hooks: Hooks | Iterable[Hooks]) -> tuple[Hooks, ...]:
    """Returns hooks as a tuple.

    Args:
        hooks: one object, or several.

    Raises:
        TypeError: one is not an object of a subclass of `Hooks`, or has a method that is not `async def`.
        ValueError: its time limit or what it says of errors is not usable.
    """
    if not isinstance(hooks, Hooks | Iterable):
        raise TypeError(f"hooks must be objects of subclasses of shimpy.Hooks, not {hooks!r}")
    found: tuple[Any, ...] = (hooks,) if isinstance(hooks, Hooks) else tuple(hooks)
    for each in found:
        name = type(each).__name__
        if not isinstance(each, Hooks):
            what = each.__name__ if isinstance(each, type) else name
            raise TypeError(f"hooks: {what} is not an object of a subclass of shimpy.Hooks")
        for method in METHODS:
            if not inspect.iscoroutinefunction(getattr(each, method)):
                raise TypeError(f"hooks: {name}.{method} must be `async def`")
        limit: Any = each.time_limit
        if not isinstance(limit, (int, float)) or isinstance(limit, bool) or not 0 < limit < float("inf"):
            raise ValueError(f"hooks: {name}.time_limit must be seconds above 0, not {limit!r}")
        if each.on_error not in ("refuse", "log"):
            raise ValueError(f'hooks: {name}.on_error must be "refuse" or "log", not {each.on_error!r}')
    return found


METHODS: Final = tuple(name for name, value in vars(Hooks).items() if inspect.iscoroutinefunction(value))
