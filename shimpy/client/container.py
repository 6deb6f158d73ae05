"""A container that is there for the time of a block, and what can be run in it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from shimpy.client import run, session
from shimpy.client.arguments import check_exec
from shimpy.client.command_process import started
from shimpy.client.rpc import settled
from shimpy.errors import NotFoundError, ShimError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from shimpy.client.exits import ExitWatch
    from shimpy.client.model import ContainerState, ExecOptions, Result
    from shimpy.client.pipes import Fifos
    from shimpy.client.session import CommandStream, Pty
    from shimpy.client.shim_calls import ShimCalls


class Container:
    """A running container, from a client's `container()` or `current()`.

    Attributes:
        id: its name.
        pid: its init, as the host numbers it.
    """

    def __init__(
        self,
        client: ShimCalls,
        exits: ExitWatch,
        id: str,
        pid: int,
        exited: asyncio.Future[int | None],
    ) -> None:
        self.id = id
        self.pid = pid
        self._client = client
        self._exits = exits
        self._exited = exited

    async def run(
        self,
        args: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        output_limit: int | None = None,
        **options: Unpack[ExecOptions],
    ) -> Result:
        """Runs a command in the container and returns how it went.

        The command is over when its process has exited; what it left running in the background is
        not waited for. Cancelling this does what the timeout does, and then raises.

        Args:
            args: the program and its arguments.
            input: what it reads; None: nothing.
            timeout: seconds, from this call on, until it is killed with all that it started and
                what it has written is returned; None, or infinity: never.
            output_limit: bytes that are kept of each output; what comes after is read and thrown
                away, so that the command neither waits nor fails for it.
            options: see `shimpy.ExecOptions`; what is left out is as the container has it.

        Raises:
            TypeError: there is no such option, or an argument is of the wrong type.
            ValueError: *timeout* or *output_limit* is negative, or *timeout* NaN.
            NotFoundError: the program is not there.
            PermissionDeniedError: it may not be run.
            FailedPreconditionError: the container is paused, or its init has died.
            DeadlineExceededError: 5 seconds after the time was up the runtime had not even
                started the command.
        """
        check_exec(args, options)

        async def create(fifos: Fifos, timeout: float | None) -> int:
            return await self._client.exec(
                args, stdin=fifos.stdin, stdout=fifos.stdout, stderr=fifos.stderr, timeout=timeout, **options
            )

        return await run.run(
            self._client, self._exits, create, input=input, timeout=timeout, output_limit=output_limit
        )

    def stream(
        self, args: Sequence[str], *, stdin: bool = False, **options: Unpack[ExecOptions]
    ) -> AbstractAsyncContextManager[CommandStream]:
        """Runs a command whose output comes as it is written; killed at the end of the block.

        Example:
            async with container.stream(["make"]) as command:
                async for name, data in command:
                    print(name, data)
                print(await command.wait())

        Args:
            args: the program and its arguments.
            stdin: whether you are going to write to it.
            options: see `shimpy.ExecOptions`.

        Raises:
            TypeError: there is no such option, or *args* are not strings.
        """
        check_exec(args, options)

        async def create(fifos: Fifos) -> int:
            return await self._client.exec(
                args, stdin=fifos.stdin, stdout=fifos.stdout, stderr=fifos.stderr, **options
            )

        return session.stream(self._client, self._exits, create, stdin=stdin)

    def pty(
        self, args: Sequence[str], *, width: int = 80, height: int = 24, **options: Unpack[ExecOptions]
    ) -> AbstractAsyncContextManager[Pty]:
        """Runs a command on a terminal of its own; killed at the end of the block.

        The API has no size in Exec: the terminal gets its own as soon as the command runs. A command
        that is quicker finds 0 columns, and hears of the size as of any other (SIGWINCH).

        Args:
            args: the program and its arguments.
            width: columns of the terminal.
            height: its rows.
            options: see `shimpy.ExecOptions`.

        Raises:
            TypeError: there is no such option, or *args* are not strings.
        """
        check_exec(args, options)

        async def create(fifos: Fifos) -> int:
            return await self._client.exec(
                args, terminal=True, stdin=fifos.stdin, stdout=fifos.stdout, **options
            )

        return session.pty(self._client, self._exits, create, size=(width, height))

    async def state(self) -> ContainerState:
        """Returns what there is of it."""
        return await self._client.state()

    async def pause(self) -> None:
        """Freezes every process of the container."""
        await self._client.pause()

    async def resume(self) -> None:
        """Lets it go on."""
        await self._client.resume()

    async def wait(self) -> int:
        """Waits for init to end.

        Returns:
            Its exit code, or 128 + the signal that ended it.

        Raises:
            UnavailableError: the shim is gone, or the container's block has ended before init's
                exit status was known.
        """
        status = await asyncio.shield(self._exited)
        return await self._client.delete(self.pid) if status is None else status


@asynccontextmanager
async def managed(
    client: ShimCalls,
    exits: ExitWatch,
    id: str,
    create: Callable[[], Awaitable[int]],
) -> AsyncIterator[Container]:
    """Starts what *create* creates, and deletes it at the end of the block."""
    pid, exited = await started(client, exits, create)
    try:
        await client.start()
        yield Container(client, exits, id, pid, exited)
    except BaseException:
        with suppress(ShimError):
            await settled(_deleted(client, pid, exited))
        raise
    else:
        with suppress(NotFoundError):  # deleted already
            await settled(_deleted(client, pid, exited))
    finally:
        if not exited.done():
            exited.set_exception(UnavailableError("the container's block has ended"))
            exited.exception()  # retrieved: there need not be a waiter


async def _deleted(client: ShimCalls, pid: int, exited: asyncio.Future[int | None]) -> None:
    """Deletes a container, and tells its end to who waits for it: the event may come too late."""
    status = await client.delete(pid)
    if not exited.done():
        exited.set_result(status)


async def delete_container(client: ShimCalls) -> None:
    """Kills and deletes the container that a shim has, if it has one."""
    pid = (await client.state()).pid
    if pid:
        with suppress(NotFoundError):
            await client.delete(pid)
