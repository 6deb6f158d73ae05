"""What a benchmark works with: runtimes, bundles, a shim, and where its figures go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from shimpy.api import ShimStub
from tests.benchmarks.figures import Figure, Target
from tests.support import bundles, containers, events
from tests.support.servers import Server

T = TypeVar("T")

_NOTHING = subprocess.DEVNULL


class Bench:
    """One run.

    Args:
        directory: for bundles and FIFOs.
        scale: multiplies how often things are done; 1 is a run of a few minutes.
        runtimes: those to measure.

    Attributes:
        figures: what has been measured so far.
        notes: what could not be.
        directory: for a benchmark's own files.
        runtimes: those that run here.
        runtime: the first of them.
    """

    def __init__(self, directory: Path, scale: float, runtimes: Sequence[str]) -> None:
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.directory = directory
        self._scale = scale
        self._rootfs = bundles.make_rootfs(directory / "rootfs")
        directory.chmod(0o711)  # for the ids of a user namespace
        self._numbers = itertools.count(1)
        self.runtimes = [runtime for runtime in runtimes if self._runs(runtime)]
        self.runtime = self.runtimes[0] if self.runtimes else "runc"

    def rounds(self, number: int, least: int = 1) -> int:
        """Returns how often to do something that is done *number* times in a run of the usual length."""
        return max(least, round(number * self._scale))

    def record(
        self,
        name: str,
        values: Sequence[float],
        unit: str,
        *,
        bare: Sequence[float] = (),
        targets: Sequence[Target] = (),
    ) -> None:
        """Notes a figure.

        Args:
            name: what was measured; the same from run to run.
            values: the samples.
            unit: of them.
            bare: the samples of what it is compared with.
            targets: what it should be.
        """
        self.figures.append(Figure.of(name, values, unit, bare, targets))
        print("  ".join(cell for cell in self.figures[-1].row() if cell), flush=True)

    def note(self, text: str) -> None:
        """Notes what could not be measured, and why."""
        self.notes.append(text)
        print(text, flush=True)

    def bundle(self, *args: str, **options: Any) -> str:
        """Makes a bundle; see support.bundles.make_bundle."""
        return bundles.make_bundle(
            self.directory / f"bundle{next(self._numbers)}", self._rootfs, args, **options
        )

    def new_id(self) -> str:
        """Returns an id that no container has."""
        return containers.new_id()

    def fifo(self) -> str:
        """Makes a FIFO."""
        path = self.directory / f"fifo{next(self._numbers)}"
        os.mkfifo(path)
        return str(path)

    @contextlib.asynccontextmanager
    async def served(
        self, runtime: str = "", *options: str
    ) -> AsyncIterator[tuple[Server, ShimStub, events.Recorder]]:
        """Yields a `python -m shimpy`, a client of it, and what it publishes."""
        server = Server(["--runtime", runtime or self.runtime, "--log-level", "warning", *options])
        try:
            server.wait_until_it_listens()
            stub = server.stub()
            async with events.record(stub) as recorder:
                yield server, stub, recorder
        finally:
            server.close()

    def _runs(self, runtime: str) -> bool:
        if shutil.which(runtime) is None:
            self.note(f"{runtime}: not installed, not measured")
            return False
        container, bundle = self.new_id(), self.bundle("true")
        done = subprocess.run(
            [runtime, "run", "--bundle", bundle, container],
            stdin=_NOTHING,
            stdout=_NOTHING,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            self.note(f"{runtime}: runs no container here, not measured ({said})")
        return done.returncode == 0


def command(*argv: str) -> float:
    """Runs a command as bare as can be, and returns how many milliseconds it took."""
    began = time.perf_counter()
    subprocess.run(argv, stdin=_NOTHING, stdout=_NOTHING, stderr=_NOTHING, check=True)
    return (time.perf_counter() - began) * 1000


async def timed(call: Awaitable[T]) -> tuple[float, T]:
    """Awaits a call, and returns how many milliseconds it took, and what it gave."""
    began = time.perf_counter()
    result = await call
    return (time.perf_counter() - began) * 1000, result


def memory(pid: int) -> tuple[float, float]:
    """Returns RSS and PSS of a process, in kB (proc_pid_smaps(5))."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    return float(fields["Rss"].split()[0]), float(fields["Pss"].split()[0])


def cpu(pid: int) -> float:
    """Returns the milliseconds of CPU that a process has used, to the nanosecond (sched statistics)."""
    spent = [task.read_text().split()[0] for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(map(int, spent)) / 1e6


def python(*arguments: str) -> list[str]:
    """Returns the command of this interpreter with arguments."""
    return [sys.executable, *arguments]


async def quiet(seconds: float = 0.3) -> None:
    """Lets what has just ended come to rest."""
    # For the figures; nothing is ordered by it.
    await asyncio.sleep(seconds)
