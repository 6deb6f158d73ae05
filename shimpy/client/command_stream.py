"""A running command whose output comes as it is written."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ObjectReceiveStream

from shimpy.client.command_process import ProcessName, running
from shimpy.client.deadline import in_turn
from shimpy.client.lines import LineStream
from shimpy.client.session import Session
from shimpy.client.streams import InputStream, OutputStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from shimpy.client.deadline import Deadline
    from shimpy.client.exits import ExitWatch
    from shimpy.client.model import Chunk
    from shimpy.client.pipes import Fifos
    from shimpy.client.shim_calls import ShimCalls


class CommandStream(Session, ObjectReceiveStream["Chunk"]):
    """A running command whose output comes as it is written.

    `async for stream, data in command` brings the pieces, in order for each of the two outputs,
    and ends when the command has. `command.lines()` brings lines instead. `command.stdout` and
    `command.stderr` are the outputs one by one, and `command.stdin` is what the command reads, as anyio's
    streams (`anyio.streams.text.TextReceiveStream(command.stdout)`). A command whose output is not
    fetched waits, as on any pipe.

    Attributes:
        stdin: an `anyio.abc.ByteSendStream`.
        stdout: an `anyio.abc.ByteReceiveStream`.
        stderr: the same for its other output.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(limit)
        self.stdin = InputStream(lambda: self._process.stdin)
        self.stdout = OutputStream("stdout", self._output, self.wait)
        self.stderr = OutputStream("stderr", self._output, self.wait)

    async def receive(self) -> Chunk:
        """Returns the next piece of either output.

        Raises:
            anyio.EndOfStream: the command has ended.
        """
        chunk = await self._next_chunk()
        if chunk is None:
            raise anyio.EndOfStream
        return chunk

    def lines(self, *, limit: int = 1 << 16) -> LineStream:
        """Brings the output line by line, each as a `Chunk` without its line ending.

        For example:

            async for stream, line in command.lines():
                print(stream, line.decode(errors="replace"))

        Args:
            limit: bytes; a longer line comes in pieces of that length.
        """
        return LineStream(self, limit)

    async def close_stdin(self) -> None:
        """Ends what the process reads. Idempotent."""
        await self.stdin.aclose()


@asynccontextmanager
async def stream(
    client: ShimCalls,
    exits: ExitWatch,
    create: Callable[[Fifos], Awaitable[int]],
    name: ProcessName,
    *,
    turn: AbstractAsyncContextManager[object],
    stdin: bool,
    created: Callable[[int], Awaitable[None]] | None = None,
    deadline: Deadline | None = None,
    output_limit: int | None = None,
) -> AsyncIterator[CommandStream]:
    """Runs a command for the time of the block; see `shimpy.Container.stream`."""
    session = CommandStream(output_limit)
    async with (
        in_turn(turn, deadline),
        running(
            client,
            exits,
            create,
            name,
            take=session._output.put,
            stdin=stdin,
            stderr=True,
            created=created,
            deadline=deadline,
        ) as process,
    ):
        session._begin(process, deadline)
        yield session
