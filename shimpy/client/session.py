"""Commands that are followed while they run: their output as it comes, or a terminal to talk to them on."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from shimpy.client.command_process import CommandProcess, running
from shimpy.client.model import Chunk
from shimpy.errors import FailedPreconditionError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Self

    from shimpy.client.exits import ExitWatch
    from shimpy.client.model import StreamName
    from shimpy.client.pipes import Fifos
    from shimpy.client.shim_calls import ShimCalls

_Piece = TypeVar("_Piece")

# Bytes of output that are held for the iterating caller; beyond that the process has to wait.
_BUFFER = 1 << 18


class _Session(Generic[_Piece]):
    """A process whose output is fetched piece by piece.

    Iterating brings each piece as `_view` shows it, and ends when the process has.
    """

    def __init__(self) -> None:
        self._pieces: deque[Chunk] = deque()
        self._held = 0
        self._news = asyncio.Event()
        self._running: CommandProcess | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Piece:
        piece = await self._next()
        if piece is None:
            raise StopAsyncIteration
        return self._view(piece)

    @property
    def pid(self) -> int:
        """The process, as the host numbers it."""
        return self._process.pid

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

    def kill(self) -> None:
        """Kills the process and all that it started; `wait` tells when that is done."""
        self._process.kill()

    async def wait(self) -> int:
        """Waits for the end of the process.

        Only so much of the output that is not fetched is held: a process that writes more waits until
        its output is iterated over.

        Returns:
            Its exit code, or 128 + the signal that ended it.
        """
        return await self._process.wait()

    def _view(self, piece: Chunk) -> _Piece:
        raise NotImplementedError

    @property
    def _process(self) -> CommandProcess:
        if self._running is None:
            raise RuntimeError("the process is there only within its `async with` block")
        return self._running

    def _begin(self, process: CommandProcess) -> None:
        self._running = process
        ending = asyncio.ensure_future(process.wait())
        ending.add_done_callback(self._finished)

    def _finished(self, ending: asyncio.Future[int]) -> None:
        if not ending.cancelled():
            ending.exception()  # seen: wait() raises it
        self._ended = True
        self._news.set()

    def _take(self, stream: StreamName, data: bytes) -> None:
        self._pieces.append(Chunk(stream, data))
        self._held += len(data)
        self._news.set()
        if self._held >= _BUFFER and self._running is not None:
            self._running.pause()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Brings the output piece by piece, each with the name of where it was written."""
        while (piece := await self._next()) is not None:
            yield piece

    async def _next(self) -> Chunk | None:
        while not self._pieces:
            if self._ended:
                await self._process.wait()  # raises what went wrong
                return None
            self._news.clear()
            await self._news.wait()
        piece = self._pieces.popleft()
        self._held -= len(piece.data)
        if self._held < _BUFFER:
            self._process.resume()
        return piece


class CommandStream(_Session[Chunk]):
    """A running command whose output comes as it is written.

    `async for stream, data in command` brings the pieces, in order for each of the two outputs,
    and ends when the command has. A command whose output is not fetched waits, as on any pipe.
    """

    def close_stdin(self) -> None:
        """Ends what the process reads. Idempotent."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _view(self, piece: Chunk) -> Chunk:
        return piece


class Pty(_Session[bytes]):
    """A running command on a terminal of its own.

    `async for data in pty` brings what the terminal shows, and ends when the command has.

    The input of a terminal cannot be closed. As at a keyboard, `await pty.write(bytes([4]))`
    (Ctrl-D, the VEOF of termios(3)) at the beginning of a line is the end for a program that reads
    lines; one that has switched to raw mode reads that byte.
    """

    def __init__(self, resize: Callable[[int, int, int], Awaitable[None]]) -> None:
        super().__init__()
        self._resize = resize

    def _view(self, piece: Chunk) -> bytes:
        return piece.data

    async def read(self) -> bytes:
        """Returns what the terminal shows next, `b""` once the command has ended."""
        piece = await self._next()
        return b"" if piece is None else piece.data

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
async def stream(
    client: ShimCalls,
    exits: ExitWatch,
    create: Callable[[Fifos], Awaitable[int]],
    *,
    stdin: bool,
    created: Callable[[int], Awaitable[None]] | None = None,
) -> AsyncIterator[CommandStream]:
    """Runs a command for the time of the block; see `shimpy.Container.stream`."""
    session = CommandStream()
    async with running(
        client, exits, create, take=session._take, stdin=stdin, stderr=True, created=created
    ) as process:
        session._begin(process)
        yield session


@asynccontextmanager
async def pty(
    client: ShimCalls,
    exits: ExitWatch,
    create: Callable[[Fifos], Awaitable[int]],
    *,
    size: tuple[int, int],
    started: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Pty]:
    """Runs a command on a terminal for the time of the block; see `shimpy.Container.pty`."""

    async def created(pid: int) -> None:
        with suppress(NotFoundError, FailedPreconditionError):  # it may be over already
            await client.resize(pid, *size)
        if started is not None:
            await started()

    session = Pty(client.resize)
    async with running(
        client, exits, create, take=session._take, stdin=True, stderr=False, created=created
    ) as process:
        session._begin(process)
        yield session
