"""A process from its start to its end, with its FIFOs; whatever happens, nothing of it is left."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shimpy.client.deadline import STARTING_GRACE
from shimpy.client.pipes import Fifos, InputWriter, OutputReader
from shimpy.client.rpc import settled
from shimpy.errors import FailedPreconditionError, NotFoundError, ShimError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from shimpy.client.deadline import Deadline
    from shimpy.client.exits import Exit, ExitWatch
    from shimpy.client.model import StreamName
    from shimpy.client.shim_calls import ShimCalls


@dataclass(slots=True)
class ProcessName:
    """What the Task API calls a process.

    Attributes:
        container_id: its container.
        exec_id: "" for init; None: its pid, as shim.v1 has started it.
    """

    container_id: str
    exec_id: str | None = None


class CommandProcess:
    """A process that has been started.

    Its end is one task: it waits for the exit or for `kill`, deletes the process and reads
    what is left in its FIFOs.

    Attributes:
        pid: as the host numbers it.
        stdin: where to write what it reads; None: nothing.
        oom: meanwhile the OOM killer struck in its container; known once it has ended.
    """

    def __init__(
        self,
        client: ShimCalls,
        exits: ExitWatch,
        name: ProcessName,
        pid: int,
        exited: asyncio.Future[Exit],
        readers: dict[StreamName, OutputReader],
    ) -> None:
        self.pid = pid
        self.stdin: InputWriter | None = None
        self.oom = False
        self._name = name
        self._exits = exits
        self._client = client
        self._exited = exited
        self._readers = readers
        self._killed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end = asyncio.ensure_future(self._until_end())

    async def wait(self) -> int:
        """Waits for the end and returns the exit status; all output has been handed on by then."""
        return await asyncio.shield(self._end)

    async def signal(self, number: int) -> None:
        """Sends it a signal.

        Raises:
            FailedPreconditionError: it has ended.
        """
        if self._exited.done() or self._killed.done():
            raise FailedPreconditionError(f"process {self.pid} has ended")
        await self._client.task.kill(self._name.container_id, self._exec_id, number)

    async def hang_up(self) -> None:
        """Ends what is read on its terminal."""
        if self.stdin is not None:
            self.stdin.close()
        with suppress(NotFoundError):  # it has ended
            await self._client.task.close_stdin(self._name.container_id, self._exec_id)

    @property
    def _exec_id(self) -> str:
        return str(self.pid) if self._name.exec_id is None else self._name.exec_id

    def kill(self) -> None:
        """Makes the end come now: the process is killed with all that it started."""
        if not self._killed.done():
            self._killed.set_result(None)

    def pause(self, stream: StreamName) -> None:
        """Reads no output for now, unless the process has ended and its rest must be fetched."""
        if not (self._exited.done() or self._killed.done()):
            self._readers[stream].pause()

    def resume(self, stream: StreamName) -> None:
        """Reads output on."""
        self._readers[stream].resume()

    async def _until_end(self) -> int:
        try:
            ends: set[asyncio.Future[Exit] | asyncio.Future[None]] = {self._exited, self._killed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            status = self._exited.result().status if self._exited.done() else None
            for reader in self._readers.values():
                reader.resume()  # what a terminal still holds comes while it is being deleted
            try:
                status = await self._client.delete(self.pid)
            except NotFoundError:
                if status is None:  # another client deleted it, and got the status
                    raise
            for reader in self._readers.values():
                reader.finish()
            self.oom = self._exited.result().oom if self._exited.done() else self._exits.oom(self.pid)
            return status
        finally:
            self._exited.cancel()
            for reader in self._readers.values():
                reader.close()
            if self.stdin is not None:
                self.stdin.close()


@asynccontextmanager
async def running(
    client: ShimCalls,
    exits: ExitWatch,
    create: Callable[[Fifos], Awaitable[int]],
    name: ProcessName,
    *,
    take: Callable[[StreamName, bytes], None],
    stdin: bool,
    stderr: bool,
    created: Callable[[int], Awaitable[None]] | None = None,
    deadline: Deadline | None = None,
) -> AsyncIterator[CommandProcess]:
    """Runs a process for the time of the block; at its end the process is killed if need be.

    Args:
        client: the shim's.
        exits: tells when the process has exited.
        create: makes the process with these FIFOs and returns its pid.
        name: what the Task API calls it; *create* may say more of that.
        take: is given what the process writes.
        stdin: whether it gets something to read.
        stderr: whether it has an output for errors of its own; a terminal has not.
        created: what remains to be done once it is there.
        deadline: when its time is up; the caller sees to that, and this program's guardian if it does not.
    """
    end = None if deadline is None else deadline.monotonic()
    with Fifos(client.guard.make_folder, stdin=stdin, stderr=stderr) as fifos, ExitStack() as enforced:
        readers: dict[StreamName, OutputReader] = {}
        try:
            readers["stdout"] = OutputReader(fifos.stdout, lambda data: take("stdout", data))
            if fifos.stderr is not None:
                readers["stderr"] = OutputReader(fifos.stderr, lambda data: take("stderr", data))
            pid, exited = await started(client, exits, lambda: create(fifos))
        except BaseException:
            for reader in readers.values():
                reader.close()
            raise
        process = CommandProcess(client, exits, name, pid, exited, readers)
        for reader in readers.values():
            reader.resume()
        try:
            if fifos.stdin is not None:
                process.stdin = InputWriter(fifos.stdin)
            if created is not None:
                if end is not None:
                    enforced.enter_context(client.guard.kill_at(pid, end + STARTING_GRACE))
                await created(pid)
            if end is not None:
                enforced.enter_context(client.guard.kill_at(pid, end))
            yield process
        except BaseException:
            process.kill()
            with suppress(ShimError):
                await settled(process.wait())
            raise
        process.kill()
        await settled(process.wait())


async def started(
    client: ShimCalls, exits: ExitWatch, create: Callable[[], Awaitable[int]]
) -> tuple[int, asyncio.Future[Exit]]:
    """Starts a process; one that is still being started when this is cancelled is deleted.

    The call is not cancelled with the caller: its reply might be lost on the way, and with it the
    pid by which to delete what it started.
    """
    starting = asyncio.ensure_future(exits.start(create))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await settled(_given_up(client, starting))
        raise


async def _given_up(client: ShimCalls, starting: asyncio.Future[tuple[int, asyncio.Future[Exit]]]) -> None:
    with suppress(ShimError, TimeoutError):
        pid, exited = await asyncio.wait_for(starting, STARTING_GRACE)
        exited.cancel()
        await client.delete(pid)
