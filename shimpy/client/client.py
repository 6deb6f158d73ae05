"""The client: the calls of the API, and containers and commands that clean up after themselves."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from shimpy.client import command_stream, run, terminal
from shimpy.client.arguments import check_kinds, check_size
from shimpy.client.command_process import ProcessName
from shimpy.client.container import Container, managed
from shimpy.client.deadline import Deadline, check_output_limit
from shimpy.client.exits import ExitWatch
from shimpy.client.shim_calls import ShimCalls
from shimpy.errors import FailedPreconditionError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    import anyio
    from grpclib.client import Channel

    from shimpy.client.command_stream import CommandStream
    from shimpy.client.guard import Guard
    from shimpy.client.model import Result, StrPath
    from shimpy.client.pipes import Fifos
    from shimpy.client.terminal import Pty


class ShimClient(ShimCalls):
    """Speaks to one shim, which looks after one container at a time.

    `shimpy.launch`, `shimpy.connect` and `shimpy.in_process` give one.
    """

    def __init__(
        self,
        channel: Channel,
        guard: Guard | None = None,
        *,
        task: Callable[[], Awaitable[Channel]] | None = None,
    ) -> None:
        """Makes a client of a grpclib channel, which stays the caller's to close.

        Args:
            channel: to the shim.
            guard: what happens with what the client makes should this program die; None: it stays.
            task: gives the channel to the Task API, where that is another.
        """
        super().__init__(channel, guard, task=task)
        self._exits = ExitWatch(self)

    def container(
        self,
        id: str,
        bundle: StrPath,
        *,
        runtime: str = "",
        no_pivot: bool = False,
        stdin: StrPath | None = None,
        stdout: StrPath | None = None,
        stderr: StrPath | None = None,
    ) -> AbstractAsyncContextManager[Container]:
        """Creates and starts a container that is deleted at the end of the block, come what may.

        Its init should be something that stays, such as `sleep 1000000`: when init ends, so
        does all that runs in the container. The arguments are those of `create`.
        """

        async def create() -> int:
            return await self.create(
                id, bundle, runtime=runtime, no_pivot=no_pivot, stdin=stdin, stdout=stdout, stderr=stderr
            )

        return managed(self, self._exits, id, create)

    async def current(self) -> Container:
        """Returns the container that the shim has, by whatever client it was created.

        Raises:
            NotFoundError: it has none.
        """
        state = await self.state()
        if not state.pid:
            raise NotFoundError("this shim has no container")
        return Container(self, self._exits, state.id, state.pid, await self._exits.watch(state.pid))

    async def run(
        self,
        id: str,
        bundle: StrPath,
        *,
        runtime: str = "",
        input: bytes | None = None,
        timeout: float | None = None,
        output_limit: int | None = None,
        limiter: anyio.CapacityLimiter | None = None,
    ) -> Result:
        """Runs a container whose init is the command, to its end.

        Args:
            id: its name.
            bundle: the directory with its `config.json`.
            runtime: an OCI runtime's name or absolute path; empty: the shim's own default.
            input: what it reads; None: nothing.
            timeout: as for `shimpy.Container.run`.
            output_limit: as for `shimpy.Container.run`.
            limiter: as for `shimpy.Container.run`.

        Raises:
            DeadlineExceededError: 5 seconds after the time was up the runtime had not even
                started the command.
        """

        async def create(fifos: Fifos, timeout: float | None) -> int:
            return await self.create(
                id,
                bundle,
                runtime=runtime,
                stdin=fifos.stdin,
                stdout=fifos.stdout,
                stderr=fifos.stderr,
                timeout=timeout,
            )

        async with run.turn(limiter):
            return await run.run(
                self,
                self._exits,
                create,
                ProcessName(id, ""),
                created=self._start,
                input=input,
                timeout=timeout,
                output_limit=output_limit,
            )

    def stream(
        self,
        id: str,
        bundle: StrPath,
        *,
        runtime: str = "",
        stdin: bool = False,
        timeout: float | None = None,
        output_limit: int | None = None,
        limiter: anyio.CapacityLimiter | None = None,
    ) -> AbstractAsyncContextManager[CommandStream]:
        """Runs a container whose init is the command, its output coming as it is written.

        Args:
            id: its name.
            bundle: the directory with its `config.json`.
            runtime: an OCI runtime's name or absolute path; empty: the shim's own default.
            stdin: whether you are going to write to it.
            timeout: as for `shimpy.Container.stream`.
            output_limit: as for `shimpy.Container.stream`.
            limiter: as for `shimpy.Container.stream`.
        """
        check_kinds(bool, stdin=stdin)
        check_output_limit(output_limit)
        deadline = Deadline(timeout)
        create = self._creating(id, bundle, runtime, terminal=False, deadline=deadline)

        async def created(_pid: int) -> None:
            await self.start(timeout=deadline.left_to_start())

        return command_stream.stream(
            self,
            self._exits,
            create,
            ProcessName(id, ""),
            turn=run.turn(limiter),
            stdin=stdin,
            created=created,
            deadline=deadline,
            output_limit=output_limit,
        )

    def pty(
        self,
        id: str,
        bundle: StrPath,
        *,
        runtime: str = "",
        width: int = 80,
        height: int = 24,
        timeout: float | None = None,
        limiter: anyio.CapacityLimiter | None = None,
    ) -> AbstractAsyncContextManager[Pty]:
        """Runs a container whose init is the command, on a terminal of its own.

        Args:
            id: its name.
            bundle: the directory with its `config.json`, which has to ask for a terminal.
            runtime: an OCI runtime's name or absolute path; empty: the shim's own default.
            width: columns of the terminal.
            height: its rows.
            timeout: as for `shimpy.Container.pty`.
            limiter: as for `shimpy.Container.stream`.
        """
        check_size(width, height)
        deadline = Deadline(timeout)
        create = self._creating(id, bundle, runtime, terminal=True, deadline=deadline)

        async def created(pid: int) -> None:
            with suppress(NotFoundError, FailedPreconditionError):  # it may be over already
                await self.resize(pid, width, height)
            await self.start(timeout=deadline.left_to_start())

        return terminal.pty(
            self,
            self._exits,
            create,
            ProcessName(id, ""),
            turn=run.turn(limiter),
            created=created,
            deadline=deadline,
        )

    def _creating(
        self, id: str, bundle: StrPath, runtime: str, *, terminal: bool, deadline: Deadline | None = None
    ) -> Callable[[Fifos], Awaitable[int]]:
        check_kinds(str, id=id, runtime=runtime)

        async def create(fifos: Fifos) -> int:
            return await self.create(
                id,
                bundle,
                runtime=runtime,
                terminal=terminal,
                stdin=fifos.stdin,
                stdout=fifos.stdout,
                stderr=fifos.stderr,
                timeout=None if deadline is None else deadline.left_to_start(),
            )

        return create

    async def _start(self, pid: int, timeout: float | None = None) -> None:
        await self.start(timeout=timeout)

    async def aclose(self) -> None:
        """Releases what the client holds at the shim; its context manager calls this."""
        await self._exits.aclose()
