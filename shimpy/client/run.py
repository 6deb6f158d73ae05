"""Commands that are run to their end: their input, what is kept of their output, their result."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Final

from shimpy.client.command_process import CommandProcess, ProcessName, running
from shimpy.client.deadline import Deadline, check_output_limit
from shimpy.client.model import Result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    import anyio

    from shimpy.client.exits import ExitWatch
    from shimpy.client.model import StreamName
    from shimpy.client.pipes import Fifos
    from shimpy.client.shim_calls import ShimCalls


# 128 + SIGKILL.
_KILLED: Final = 137


class OutputBuffer:
    """What is kept of a command's output.

    Attributes:
        truncated: there was more than the limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.truncated = False
        self._limit = limit
        self._outputs: dict[StreamName, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def take(self, stream: StreamName, data: bytes) -> None:
        """Keeps what is within the limit."""
        output = self._outputs[stream]
        output += data
        if self._limit is not None and len(output) > self._limit:
            del output[self._limit :]
            self.truncated = True

    def result(self, status: int, *, timed_out: bool, oom: bool) -> Result:
        """Returns how the command went."""
        stdout, stderr = (bytes(output) for output in self._outputs.values())
        return Result(stdout, stderr, status, timed_out, self.truncated, oom)


def turn(limiter: anyio.CapacityLimiter | None) -> AbstractAsyncContextManager[None]:
    """Returns what waits until one more may run, and runs it in its block.

    Args:
        limiter: how many may; None: any number.

    Raises:
        TypeError: it is not a limiter.
    """
    if limiter is not None and not hasattr(limiter, "__aenter__"):
        raise TypeError(f"limiter must be an anyio.CapacityLimiter, not {limiter!r}")
    return limiter or nullcontext()


async def run(
    client: ShimCalls,
    exits: ExitWatch,
    create: Callable[[Fifos, float | None], Awaitable[int]],
    name: ProcessName,
    *,
    created: Callable[[int, float | None], Awaitable[None]] | None = None,
    input: bytes | None = None,
    timeout: float | None = None,
    output_limit: int | None = None,
) -> Result:
    """Runs a command to its end, or to the end of its time; see `shimpy.Container.run`.

    Args:
        client: the shim's.
        exits: tells when the process has exited.
        create: makes the process with these FIFOs, within that many seconds; returns its pid.
        name: what the Task API calls it.
        created: what remains to be done once it is there, within that many seconds.
        input: what the command reads.
        timeout: seconds.
        output_limit: bytes that are kept of each output.

    Raises:
        TypeError: *input* is not a bytes-like object, or a limit is not a number.
        ValueError: a limit is negative or NaN.
    """
    # All before anything is made: what is found wrong later has to be cleaned up after.
    data = None if input is None else memoryview(input).cast("B")
    check_output_limit(output_limit)
    deadline = Deadline(timeout)
    kept = OutputBuffer(output_limit)
    timed_out = False

    async def create_in_time(fifos: Fifos) -> int:
        return await create(fifos, deadline.left_to_start())

    async def created_in_time(pid: int) -> None:
        if created is not None:
            await created(pid, deadline.left_to_start())

    async with running(
        client,
        exits,
        create_in_time,
        name,
        take=kept.take,
        stdin=data is not None,
        stderr=True,
        created=created_in_time,
        deadline=deadline,
    ) as process:
        feeding = asyncio.ensure_future(_feed(process, data))
        try:
            async with asyncio.timeout_at(deadline.at):
                await process.wait()
        except TimeoutError:
            timed_out = True
        finally:
            feeding.cancel()
    status = await process.wait()
    # One that had ended by itself until it was to be killed did so in time.
    return kept.result(status, timed_out=timed_out and status == _KILLED, oom=process.oom)


async def _feed(process: CommandProcess, data: memoryview | None) -> None:
    if process.stdin is not None and data is not None:
        try:
            with suppress(BrokenPipeError):  # it need not read all of it
                await process.stdin.write(data)
        finally:
            process.stdin.close()
