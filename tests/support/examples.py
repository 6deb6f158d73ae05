"""The examples of the documents, whose containers have the names that a reader sees."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.support.leaks import children, eventually
from tests.support.paths import ROOT

# Not in TMPDIR, of which each run may have another.
_LOCK = Path("/var/tmp/shimpy-test-examples")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Their ids are cgroups of the whole machine's: of two examples, or two runs, one waits."""
    with _LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.asynccontextmanager
async def web_terminal(rootfs: Path, modules: Path) -> AsyncIterator[str]:
    """Runs examples/web_terminal.py and yields its address; at the end no container of it is left.

    Args:
        rootfs: the root filesystem of its containers.
        modules: where its xterm.js is.
    """
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        ROOT / "examples" / "web_terminal.py",
        rootfs,
        "--modules",
        modules,
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None
    yield (await program.stdout.readline()).decode().strip()
    await eventually(lambda: not children(program.pid))
    program.send_signal(signal.SIGINT)
    await program.wait()
