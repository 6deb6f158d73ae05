"""A running command on a terminal of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream

from shimpy.client.command_process import ProcessName, running
from shimpy.client.deadline import in_turn
from shimpy.client.session import Session
from shimpy.client.streams import InputStream, check_max_bytes
from shimpy.errors import FailedPreconditionError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from shimpy.client.deadline import Deadline
    from shimpy.client.exits import ExitWatch
    from shimpy.client.pipes import Fifos
    from shimpy.client.shim_calls import ShimCalls


class Pty(Session, ByteStream):
    """A running command on a terminal of its own.

    `async for data in pty` brings what the terminal shows, and ends when the command has. It is an
    `anyio.abc.ByteStream`.

    As at a keyboard, `await pty.write(bytes([4]))` (Ctrl-D, the VEOF of termios(3)) at the beginning of
    a line is the end for a program that reads lines; one that has switched to raw mode reads that byte.
    """

    def __init__(self, resize: Callable[[int, int, int], Awaitable[None]], limit: int | None = None) -> None:
        super().__init__(limit)
        self._resize = resize
        self._input = InputStream(lambda: self._process.stdin)

    async def read(self) -> bytes:
        """Returns what the terminal shows next, `b""` once the command has ended."""
        chunk = await self._next_chunk()
        return b"" if chunk is None else chunk.data

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Returns what the terminal shows next.

        Args:
            max_bytes: how much at most.

        Raises:
            anyio.EndOfStream: the command has ended.
        """
        check_max_bytes(max_bytes)
        data = await self._output.get_from("stdout", max_bytes)
        if not data:
            await self._process.wait()  # raises what went wrong
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Writes to the terminal, as `write` does.

        Args:
            item: bytes.

        Raises:
            anyio.BrokenResourceError: nothing is read any more.
            anyio.ClosedResourceError: its input has been closed.
        """
        await self._input.send(item)

    async def send_eof(self) -> None:
        """Does what `close_stdin` does, under anyio's name."""
        await self.close_stdin()

    async def close_stdin(self) -> None:
        """Hangs the terminal up, once what was written has been typed.

        The process gets SIGHUP, and who reads the terminal reads its end; what was typed and not read
        by then is gone. Idempotent.
        """
        await self._input.aclose()
        await self._process.hang_up()

    async def resize(self, width: int, height: int) -> None:
        """Sets the terminal's size.

        Args:
            width: columns.
            height: rows.

        Raises:
            InvalidArgumentError: there is no such size.
            FailedPreconditionError: the command has ended.
        """
        try:
            await self._resize(self.pid, width, height)
        except NotFoundError as error:  # it has been deleted, as is done once it has ended
            raise FailedPreconditionError(f"process {self.pid} has ended") from error


@asynccontextmanager
async def pty(
    client: ShimCalls,
    exits: ExitWatch,
    create: Callable[[Fifos], Awaitable[int]],
    name: ProcessName,
    *,
    turn: AbstractAsyncContextManager[object],
    created: Callable[[int], Awaitable[None]] | None = None,
    deadline: Deadline | None = None,
) -> AsyncIterator[Pty]:
    """Runs a command on a terminal for the time of the block; see `shimpy.Container.pty`."""
    session = Pty(client.resize)
    async with (
        in_turn(turn, deadline),
        running(
            client, exits, create, name, take=session._output.put, stdin=True, stderr=False, created=created
        ) as process,
    ):
        session._begin(process, deadline)
        yield session
