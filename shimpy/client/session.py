"""Commands that are followed while they run: their output as it comes, or a terminal to talk to them on."""

from __future__ import annotations

import asyncio
import signal as signals
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream, ObjectReceiveStream

from shimpy.client.command_process import CommandProcess, ProcessName, running
from shimpy.client.lines import LineStream
from shimpy.client.output_queue import OutputQueue
from shimpy.client.rpc import settled
from shimpy.client.streams import InputStream, OutputStream, check_max_bytes
from shimpy.errors import FailedPreconditionError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from shimpy.client.deadline import Deadline
    from shimpy.client.exits import ExitWatch
    from shimpy.client.model import Chunk
    from shimpy.client.pipes import Fifos
    from shimpy.client.shim_calls import ShimCalls


class _Session:
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
        while (chunk := await self._next()) is not None:
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

    async def _next(self) -> Chunk | None:
        chunk = await self._output.get()
        if chunk is None:
            await self._process.wait()  # raises what went wrong
        return chunk

    async def _receive(self) -> Chunk:
        chunk = await self._next()
        if chunk is None:
            raise anyio.EndOfStream
        return chunk


class CommandStream(_Session, ObjectReceiveStream["Chunk"]):
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
        return await self._receive()

    def lines(self, *, limit: int = 1 << 16) -> LineStream:
        """Brings the output line by line, each as a `Chunk` without its line ending.

        Example:
            async for stream, line in command.lines():
                print(stream, line.decode(errors="replace"))

        Args:
            limit: bytes; a longer line comes in pieces of that length.
        """
        return LineStream(self, limit)

    async def close_stdin(self) -> None:
        """Ends what the process reads. Idempotent."""
        await self.stdin.aclose()


class Pty(_Session, ByteStream):
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
        chunk = await self._next()
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


def check_signal(signal: object) -> int:
    """Returns the number of a signal.

    Raises:
        TypeError: it is not an int, nor a `signal.Signals`.
        ValueError: there is no such signal.
    """
    if isinstance(signal, bool) or not isinstance(signal, int):
        raise TypeError(f"signal must be a number or one of signal.Signals, not {signal!r}")
    if not 1 <= signal < signals.NSIG:
        raise ValueError(f"signal: there is no signal {signal}")
    return int(signal)


@asynccontextmanager
async def stream(
    client: ShimCalls,
    exits: ExitWatch,
    create: Callable[[Fifos], Awaitable[int]],
    name: ProcessName,
    *,
    stdin: bool,
    created: Callable[[int], Awaitable[None]] | None = None,
    deadline: Deadline | None = None,
    output_limit: int | None = None,
) -> AsyncIterator[CommandStream]:
    """Runs a command for the time of the block; see `shimpy.Container.stream`."""
    session = CommandStream(output_limit)
    async with running(
        client, exits, create, name, take=session._output.put, stdin=stdin, stderr=True, created=created
    ) as process:
        session._begin(process, deadline)
        yield session


@asynccontextmanager
async def pty(
    client: ShimCalls,
    exits: ExitWatch,
    create: Callable[[Fifos], Awaitable[int]],
    name: ProcessName,
    *,
    created: Callable[[int], Awaitable[None]] | None = None,
) -> AsyncIterator[Pty]:
    """Runs a command on a terminal for the time of the block; see `shimpy.Container.pty`."""
    session = Pty(client.resize)
    async with running(
        client, exits, create, name, take=session._output.put, stdin=True, stderr=False, created=created
    ) as process:
        session._begin(process, None)
        yield session
