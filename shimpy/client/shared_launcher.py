"""One warm process for all that an event loop launches at a time without having asked for one."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shimpy.client.rpc import settled
from shimpy.client.warm_launcher import WarmLauncher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class _Shared:
    """A launcher that is there as long as anybody uses it."""

    def __init__(self) -> None:
        self._changing = asyncio.Lock()
        self._launcher = WarmLauncher()
        self._users = 0

    async def enter(self) -> WarmLauncher:
        async with self._changing:
            if not self._users:
                await self._launcher.__aenter__()
            self._users += 1
        return self._launcher

    async def leave(self) -> None:
        async with self._changing:
            self._users -= 1
            if not self._users:
                await self._launcher.__aexit__(None, None, None)


# A launcher's process is waited for by the event loop that started it.
_of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = weakref.WeakKeyDictionary()


@asynccontextmanager
async def shared_launcher() -> AsyncIterator[WarmLauncher]:
    """Gives a launcher for the time of the block; blocks of one event loop at the same time have the same."""
    shared = _of_loop.setdefault(asyncio.get_running_loop(), _Shared())
    launcher = await shared.enter()
    try:
        yield launcher
    finally:
        await settled(shared.leave())
