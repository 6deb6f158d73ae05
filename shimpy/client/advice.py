"""Says that a runtime has a known way out of its containers."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from shimpy.core.runtime import find_runtime
from shimpy.core.runtime.advisories import VERSION_TIMEOUT, advice
from shimpy.errors import ShimError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_log = logging.getLogger("shimpy.shim")

# The runtimes that have been asked: their paths, and when they were written.
_asked: set[tuple[str, int]] = set()


@asynccontextmanager
async def advised(runtime: str) -> AsyncIterator[None]:
    """Warns in the log, once, of what `asked` finds out while the block goes on.

    Args:
        runtime: the OCI runtime, a name on PATH or an absolute path.
    """
    try:
        path = find_runtime(runtime)
        key = path, os.stat(path).st_mtime_ns
    except (ShimError, OSError):  # what is wrong with it is said where it is to run something
        yield
        return
    if key in _asked:
        yield
        return
    _asked.add(key)
    async with asked(path) as answer:
        try:
            yield
        finally:
            if said := await answer():
                _log.warning("%s", said)


@asynccontextmanager
async def asked(runtime: str) -> AsyncIterator[Callable[[], Awaitable[str | None]]]:
    """Asks a runtime for its version while the block goes on.

    What it gives waits for the answer, and returns what `advice` says of it; None if there is none.

    Args:
        runtime: the OCI runtime, a name on PATH or an absolute path.
    """
    asking = asyncio.ensure_future(_ask(runtime))

    async def answer() -> str | None:
        with suppress(TimeoutError, ShimError, OSError):
            return await asyncio.wait_for(asyncio.shield(asking), VERSION_TIMEOUT)
        return None

    try:
        yield answer
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError, ShimError, OSError):
            await asking


async def _ask(runtime: str) -> str | None:
    path = find_runtime(runtime)
    process = await asyncio.create_subprocess_exec(
        path,
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said, _ = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return advice(path, said.decode(errors="replace"))
