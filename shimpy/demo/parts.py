"""What the demo stands on: its report, the FIFOs of a process, the events."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

from grpclib.exceptions import GRPCError, StreamTerminatedError

from shimpy.api import Event, EventsRequest, EventType, ShimStub

# Far more than any step takes; a demo that hangs would tell nothing.
_STEP_SECONDS = 20


class FailedError(Exception):
    """A step did not do what it should; the message says which."""


class Report:
    """Prints one line for each step: its name, what came back, how long it took."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def _paint(self, code: int, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def title(self, text: str) -> None:
        """Prints a heading."""
        print(f"\n{self._paint(1, text)}", flush=True)

    def line(self, name: str, result: str, took: str = "") -> None:
        """Prints one step."""
        print(
            f"  {self._paint(36, f'{name:<18}')} {result:<62} {self._paint(2, f'{took:>9}')}".rstrip(),
            flush=True,
        )

    @contextlib.asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[Callable[[str], None]]:
        """Times what is done inside, which hands over what came back, and prints both."""
        results: list[str] = []
        start = time.perf_counter()
        try:
            async with asyncio.timeout(_STEP_SECONDS):
                yield results.append
        except GRPCError as error:
            raise FailedError(f"{name}: {error.status.name}: {error.message}") from error
        # grpclib's connection loses an attribute when it is lost while a request is being written.
        except (OSError, StreamTerminatedError, AttributeError, subprocess.SubprocessError) as error:
            raise FailedError(f"{name}: {type(error).__name__}: {error}") from error
        self.line(name, "".join(results), f"{(time.perf_counter() - start) * 1000:.1f} ms")


def expect(what: str, got: object, wanted: object) -> None:
    """Fails the step unless it gave what was wanted."""
    if got != wanted:
        raise FailedError(f"{what}: expected {wanted!r}, got {got!r}")


class Pipes:
    """The FIFOs of one process: what a caller makes before it calls Create or Exec."""

    def __init__(self, directory: Path, name: str) -> None:
        self.stdin, self.stdout = f"{directory}/{name}.stdin", f"{directory}/{name}.stdout"
        os.mkfifo(self.stdin)
        os.mkfifo(self.stdout)
        self._output = asyncio.StreamReader()
        self._input: int | None = None

    async def __aenter__(self) -> Self:
        """Starts to read; without a writer yet, which O_NONBLOCK is for."""
        file = os.fdopen(os.open(self.stdout, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)
        protocol = asyncio.StreamReaderProtocol(self._output)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close_input()
        self._transport.close()

    async def line(self) -> str:
        """Returns the next line of output."""
        return (await self._output.readline()).decode(errors="replace").strip()

    async def rest(self) -> str:
        """Returns the output until its end, on one line."""
        return " ".join((await self._output.read()).decode(errors="replace").split())

    def write(self, text: str) -> None:
        """Writes to the process; the shim has opened the other end by the time Create or Exec replied."""
        if self._input is None:
            self._input = os.open(self.stdin, os.O_WRONLY | os.O_NONBLOCK)
        os.write(self._input, text.encode())

    def close_input(self) -> None:
        """Lets the process read EOF."""
        if self._input is not None:
            os.close(self._input)
            self._input = None


class Events:
    """What the shim publishes, collected beside the calls."""

    def __init__(self, shim: ShimStub) -> None:
        self.seen: list[Event] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._collect(shim))

    async def _collect(self, shim: ShimStub) -> None:
        with contextlib.suppress(GRPCError, StreamTerminatedError, AttributeError, OSError):
            async for event in shim.events(EventsRequest()):
                self.seen.append(event)
                self._news.set()

    async def exit_of(self, pid: int) -> Event:
        """Waits for the EXIT of a process."""
        while True:
            self._news.clear()
            for event in self.seen:
                if event.pid == pid and event.type == EventType.EXIT:
                    return event
            await self._news.wait()

    async def close(self) -> None:
        """Leaves the stream."""
        self._task.cancel()
        await asyncio.wait([self._task])
