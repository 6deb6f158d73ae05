"""One shim, one container after the other, and a report."""

from __future__ import annotations

import itertools
import os
import random
import secrets
import tempfile
import time
from collections import Counter
from pathlib import Path

from shimpy.api import CreateRequest, DeleteRequest, ShimStub, StateRequest
from tests.soak.life import Life, make_kinds
from tests.soak.watch import MEMORY, Watch
from tests.support import containers
from tests.support.events import record
from tests.support.leaks import children, eventually
from tests.support.servers import Server

# Seconds from one line of progress to the next.
REPORT = 60

# Lines of the log that are shown with a difference.
TRACE = 60


class Soak:
    """A run of it.

    Args:
        seed: what the choices are made from; None for a new one, which is printed.
        clients: how many there are at once.

    Attributes:
        differences: what was not as it must be.
    """

    def __init__(self, *, seed: str | None = None, clients: int = 4) -> None:
        self.seed = seed or secrets.token_hex(4)
        self.differences: list[str] = []
        self._clients = clients
        self._counts: Counter[str] = Counter()
        self._lives = 0
        self._life: Life | None = None
        self._shown: Life | None = None
        self._stopped = False

    def stop(self) -> None:
        """Ends the run, with its report, after the container that lives now."""
        self._stopped = True

    async def run(self, *, seconds: float, rounds: int | None = None, first: int = 1) -> None:
        """Runs until the time is up, or so many containers have lived.

        Args:
            seconds: how long; inf for no end.
            rounds: how many containers at most.
            first: the number of the first: each has choices of its own.
        """
        print(f"seed {self.seed}, {self._clients} clients", flush=True)
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="shimpy-test-") as directory:
            temporary = Path(directory) / "temporary"
            temporary.mkdir()
            # A group of its own: Ctrl-C is for us.
            server = Server(environment={"TMPDIR": str(temporary)}, process_group=0)
            try:
                server.wait_until_it_listens()
                watch = Watch(server, temporary, self._differ)
                await self._lives_of(server, Path(directory), watch, start + seconds, rounds, first)
                if watch.grown() > MEMORY:
                    self._differ(f"the memory of the shim has grown by {watch.grown()} bytes")
                self._report(start, watch)
            finally:
                for container_id in containers.left():
                    containers.remove(container_id)
                try:
                    server.close()
                except AssertionError as error:
                    log = str(error)
                    self._differ(f"a traceback in the log: {log[log.find('Traceback') :][:4000]}")
            if server.process.returncode != 0:
                self._differ(f"the shim has ended with {server.process.returncode}")
        for difference in self.differences:
            print(f"DIFFERENCE: {difference}", flush=True)
        print(f"{len(self.differences)} differences from the model; seed {self.seed}", flush=True)

    async def _lives_of(
        self, server: Server, directory: Path, watch: Watch, end: float, rounds: int | None, first: int
    ) -> None:
        kinds = make_kinds(directory)
        stubs = [server.stub() for _ in range(self._clients)]
        for stub in stubs:
            await stub.state(StateRequest())  # it connects only now
        start = reported = time.monotonic()
        async with record(server.stub()) as recorder:
            await _warm_up(stubs[0], kinds[0].bundle, directory)
            # It asks the runtime for its version in its first second.
            await eventually(lambda: not children(server.pid))
            watch.look()
            for number in itertools.islice(itertools.count(first), rounds):
                choices = random.Random(f"{self.seed}/{number}")
                kind = choices.choice(kinds)
                self._life = Life(
                    server,
                    stubs,
                    recorder.seen,
                    kind,
                    choices,
                    directory / f"life{number}",
                    self._differ,
                    self._counts,
                )
                self._life.note(f"container {number}: {kind}")
                await self._life.live()
                self._lives += 1
                watch.look()
                if time.monotonic() - reported > REPORT:
                    reported = time.monotonic()
                    self._report(start, watch)
                if not self._life.over:
                    self._differ("the run ends here: there is no room for another container")
                    break
                if self._stopped or time.monotonic() > end or server.process.poll() is not None:
                    break
            if recorder.error is not None:
                self._differ(f"the stream of events has ended with {recorder.error}")

    def _differ(self, words: str) -> None:
        self.differences.append(f"after {self._lives} containers: {words}")
        print(self.differences[-1], flush=True)
        if self._life is not None and self._life is not self._shown:
            self._shown = self._life
            print("\n".join(self._life.log[:1] + self._life.log[1:][-TRACE:]), flush=True)

    def _report(self, start: float, watch: Watch) -> None:
        memory = [f"{watch.memory[at] / 2**20:.1f}" for at in (0, len(watch.memory) // 2, -1)]
        print(
            f"{time.monotonic() - start:.0f} s: {self._lives} containers, "
            f"{len(self.differences)} differences; "
            f"memory of the shim at the beginning, in the middle, now: {' '.join(memory)} MiB",
            flush=True,
        )
        for what, count in sorted(self._counts.items()):
            print(f"    {what}: {count}", flush=True)


async def _warm_up(stub: ShimStub, bundle: str, directory: Path) -> None:
    """Has the shim open what it opens once only: it watches FIFOs from its first one on."""
    fifo = str(directory / "fifo")
    os.mkfifo(fifo)
    request = CreateRequest(id=containers.new_id(), bundle=bundle, stdin=fifo, stdout=fifo)
    await stub.delete(DeleteRequest(pid=(await stub.create(request)).pid))
