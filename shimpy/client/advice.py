"""Says, once, that a runtime has a known way out of its containers."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from shimpy.core.runtime import find_runtime
from shimpy.core.runtime.advisories import VERSION_TIMEOUT, known_escapes
from shimpy.errors import ShimError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_log = logging.getLogger("shimpy.shim")

# The runtimes that have been asked: their paths, and when they were written.
_asked: set[tuple[str, int]] = set()


@asynccontextmanager
async def advised(runtime: str) -> AsyncIterator[None]:
    """Asks a runtime for its version while the block goes on, and warns in the log of what that version has.

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
    asking = asyncio.ensure_future(_warn(path))
    try:
        yield
    finally:
        with suppress(TimeoutError, OSError):
            await asyncio.wait_for(asking, VERSION_TIMEOUT)


async def _warn(runtime: str) -> None:
    process = await asyncio.create_subprocess_exec(
        runtime,
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
    version = said.decode(errors="replace")
    for name in known_escapes(version):
        _log.warning(
            "%s (%s) is vulnerable to %s (container escape); "
            "upgrade, unless your distribution backported the fix",
            runtime,
            version.partition("\n")[0],
            name,
        )
