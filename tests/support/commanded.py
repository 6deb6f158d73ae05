"""A container by the runtime's commands alone: no shim, only who waits for its processes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shimpy.core.reaper import Child, Reaper
from shimpy.core.runtime import Runtime
from tests.support.forks import Exit


@contextlib.contextmanager
def stdio(output: Path | None = None) -> Iterator[tuple[int, int, int]]:
    """Yields file descriptors for a process: nothing to read, and a file, or nothing, to write to."""
    read = os.open(os.devnull, os.O_RDWR)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    write = os.dup(read) if output is None else os.open(output, flags, 0o600)
    try:
        yield read, write, write
    finally:
        os.close(read)
        os.close(write)


class Commanded:
    """One container.

    Args:
        runtime: whose commands.
        reaper: who waits.
        container_id: its name.
        bundle: its bundle.
        output: a file for what its processes write.

    Attributes:
        pid: of init, once it is created.
    """

    def __init__(
        self, runtime: Runtime, reaper: Reaper, container_id: str, bundle: str, output: Path | None = None
    ) -> None:
        self.id = container_id
        self.bundle = bundle
        self.pid = 0
        self._runtime = runtime
        self._reaper = reaper
        self._output = output
        self._children: dict[int, tuple[Child, Exit]] = {}

    async def create(self, **options: Any) -> int:
        """Creates it; *options* are those of the command."""
        with stdio(self._output) as fds, self._reaper.spawning():
            self.pid = await self._runtime.create(self.id, self.bundle, fds, **options)
            self._track(self.pid)
        return self.pid

    async def start(self) -> None:
        await self._runtime.start(self.id)

    async def exec(self, *args: str, **fields: Any) -> int:
        """Starts one more process; *fields* are those of `process`, beside init's own."""
        process = json.loads(Path(self.bundle, "config.json").read_text())["process"]
        with stdio(self._output) as fds, self._reaper.spawning():
            pid = await self._runtime.exec(self.id, {**process, "args": list(args), **fields}, fds)
            self._track(pid)
        return pid

    async def exit_of(self, pid: int) -> int:
        """Waits for the end of a process and returns its exit status."""
        return await self._children[pid][1].status()

    async def kill(self) -> int:
        """Kills init, and with it everything in its pid namespace, and returns its exit status."""
        for child, _ in self._children.values():
            child.kill()
        return await self.exit_of(self.pid)

    def _track(self, pid: int) -> None:
        told = Exit()
        self._children[pid] = (self._reaper.track(pid, told), told)


# Prepares one: `commanded("sleep", "1000", runtime=runc)`; further options are those of the bundle.
Command = Callable[..., Commanded]
