"""Commands that are followed while they run: what a stream of output and a terminal have in common."""

from __future__ import annotations

import asyncio
import signal as signals
from typing import TYPE_CHECKING

from shimpy.client.arguments import check_signal
from shimpy.client.output_queue import OutputQueue
from shimpy.client.rpc import settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shimpy.client.command_process import CommandProcess
    from shimpy.client.deadline import Deadline
    from shimpy.client.model import Chunk


class Session:
    """A process whose output is fetched piece by piece.

    Attributes:
        timed_out: it was killed because its time was up.
    """

    def __init__(self, limit: int | None) -> None:
        self.timed_out = False
        self._output = OutputQueue(limit)
        self._running: CommandProcess | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """The process, as the host numbers it."""
        return self._process.pid

    @property
    def truncated(self) -> bool:
        """It wrote more than the limit; the rest was read and thrown away."""
        return self._output.truncated

    @property
    def oom(self) -> bool:
        """While it was there the OOM killer struck in the container; known once it has ended."""
        return self._process.oom

    async def write(self, data: bytes) -> None:
        """Writes to what the process reads, waiting while it does not.

        Args:
            data: bytes.

        Raises:
            BrokenPipeError: it reads no more.
        """
        if self._process.stdin is None:
            raise BrokenPipeError("the process was given nothing to read")
        await self._process.stdin.write(data)

    async def kill(self, signal: int = signals.SIGKILL) -> None:
        """Kills the process with all that it started, and returns once that is done; or sends it a signal.

        Args:
            signal: any other than SIGKILL is sent to the process alone, and not waited for.

        Raises:
            FailedPreconditionError: it has ended, so that there is nothing to send a signal to.
        """
        number = check_signal(signal)
        if number != signals.SIGKILL:
            await self._process.signal(number)
            return
        self._process.kill()
        await self._process.wait()

    async def wait(self) -> int:
        """Waits for the end of the process.

        Only so much of the output that is not fetched is held: a process that writes more waits until
        its output is iterated over.

        Returns:
            Its exit code, or 128 + the signal that ended it.
        """
        return await self._process.wait()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Brings the output piece by piece, each with the name of where it was written."""
        while (chunk := await self._next_chunk()) is not None:
            yield chunk

    async def aclose(self) -> None:
        """Kills the process, if it still runs, and waits until it is gone."""
        self._process.kill()
        await settled(self._process.wait())

    @property
    def _process(self) -> CommandProcess:
        if self._running is None:
            raise RuntimeError("the process is there only within its `async with` block")
        return self._running

    def _begin(self, process: CommandProcess, deadline: Deadline | None) -> None:
        self._running = process
        self._output.source = process
        if deadline is not None and deadline.at is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline.at, self._time_out)
        ending = asyncio.ensure_future(process.wait())
        ending.add_done_callback(self._finished)

    def _time_out(self) -> None:
        self.timed_out = True
        self._process.kill()

    def _finished(self, ending: asyncio.Future[int]) -> None:
        if not ending.cancelled():
            ending.exception()  # seen: wait() raises it
        if self._timer is not None:
            self._timer.cancel()
        self._output.end()

    async def _next_chunk(self) -> Chunk | None:
        chunk = await self._output.get()
        if chunk is None:
            await self._process.wait()  # raises what went wrong
        return chunk
