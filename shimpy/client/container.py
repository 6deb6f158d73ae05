"""A container that is there for the time of a block, and what can be run in it."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from shimpy.client import command_stream, run, terminal
from shimpy.client.arguments import check_exec, check_kinds, check_size
from shimpy.client.command_process import ProcessName, started
from shimpy.client.deadline import Deadline, check_output_limit
from shimpy.client.exits import Exit
from shimpy.client.files.container_files import ContainerFiles
from shimpy.client.rpc import settled
from shimpy.client.spawned_process import SpawnedProcess
from shimpy.errors import (
    FailedPreconditionError,
    NotFoundError,
    ShimError,
    UnavailableError,
    UnimplementedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    import anyio

    from shimpy.client.command_stream import CommandStream
    from shimpy.client.exits import ExitWatch
    from shimpy.client.model import ExecOptions, Result, StrPath
    from shimpy.client.pipes import Fifos
    from shimpy.client.shim_calls import ShimCalls
    from shimpy.client.terminal import Pty


class Container(ContainerFiles):
    """A running container, from a client's `container()` or `current()`.

    Attributes:
        id: its name.
        pid: its init, as the host numbers it.
    """

    async def run(
        self,
        args: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        output_limit: int | None = None,
        limiter: anyio.CapacityLimiter | None = None,
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
            limiter: how many may run at once, of all that share it; the time that is waited for a turn is
                not the command's.
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

        async with run.turn(limiter):
            return await run.run(
                self._client,
                self._exits,
                create,
                ProcessName(self.id),
                input=input,
                timeout=timeout,
                output_limit=output_limit,
            )

    def stream(
        self,
        args: Sequence[str],
        *,
        stdin: bool = False,
        timeout: float | None = None,
        output_limit: int | None = None,
        limiter: anyio.CapacityLimiter | None = None,
        **options: Unpack[ExecOptions],
    ) -> AbstractAsyncContextManager[CommandStream]:
        """Runs a command whose output comes as it is written; killed at the end of the block.

        For example:

            async with container.stream(["make"], timeout=600) as command:
                async for stream, line in command.lines():
                    print(stream, line.decode(errors="replace"))
                print(await command.wait(), command.timed_out)

        Args:
            args: the program and its arguments.
            stdin: whether you are going to write to it.
            timeout: seconds, from this call on, until it is killed with all that it started; then its
                output ends, and `timed_out` says so. None, or infinity: never.
            output_limit: bytes that are handed on of each output; what comes after is read and thrown
                away, and `truncated` says so.
            limiter: how many may run at once, of all that share it; held until the end of the block. The time
                that is waited for a turn is not the command's.
            options: see `shimpy.ExecOptions`.

        Raises:
            TypeError: there is no such option, or an argument is of the wrong type.
            ValueError: *timeout* or *output_limit* is negative, or *timeout* NaN.
        """
        check_exec(args, options)
        check_kinds(bool, stdin=stdin)
        check_output_limit(output_limit)
        deadline = Deadline(timeout)

        async def create(fifos: Fifos) -> int:
            return await self._client.exec(
                args,
                stdin=fifos.stdin,
                stdout=fifos.stdout,
                stderr=fifos.stderr,
                timeout=deadline.left_to_start(),
                **options,
            )

        return command_stream.stream(
            self._client,
            self._exits,
            create,
            ProcessName(self.id),
            turn=run.turn(limiter),
            stdin=stdin,
            deadline=deadline,
            output_limit=output_limit,
        )

    def pty(
        self,
        args: Sequence[str],
        *,
        width: int = 80,
        height: int = 24,
        timeout: float | None = None,
        limiter: anyio.CapacityLimiter | None = None,
        **options: Unpack[ExecOptions],
    ) -> AbstractAsyncContextManager[Pty]:
        """Runs a command on a terminal of its own; killed at the end of the block.

        The terminal has its size before the command looks at it, by the Task API, which shim.v1's Exec
        has no room for. At a shim that does not serve that API it gets it as soon as the command runs.

        Args:
            args: the program and its arguments.
            width: columns of the terminal.
            height: its rows.
            timeout: seconds, from this call on, until it is killed with all that it started; then its output
                ends, and `timed_out` says so. None, or infinity: never.
            limiter: as for `stream`.
            options: see `shimpy.ExecOptions`.

        Raises:
            TypeError: there is no such option, or *args* are not strings.
        """
        check_exec(args, options)

        check_size(width, height)
        deadline = Deadline(timeout)
        name = ProcessName(self.id)

        async def create(fifos: Fifos) -> int:
            stdin, stdout = fifos.stdin or "", fifos.stdout
            try:
                pid, name.exec_id = await self._client.exec_on_terminal(
                    args, stdin=stdin, stdout=stdout, size=(width, height), **options
                )
            except UnimplementedError:
                pid = await self._client.exec(args, terminal=True, stdin=stdin, stdout=stdout, **options)
                with suppress(NotFoundError, FailedPreconditionError):  # it may be over already
                    await self._client.resize(pid, width, height)
            return pid

        return terminal.pty(
            self._client, self._exits, create, name, turn=run.turn(limiter), deadline=deadline
        )

    async def spawn(
        self,
        args: Sequence[str],
        *,
        stdin: StrPath | None = None,
        stdout: StrPath | None = None,
        stderr: StrPath | None = None,
        **options: Unpack[ExecOptions],
    ) -> SpawnedProcess:
        """Starts a process that lives on, whatever block you leave, until it ends or the container does.

        For example:

            server = await container.spawn(["python3", "-m", "http.server"], stdout="/run/job/server.log")
            ...
            await server.stop()

        Args:
            args: the program and its arguments.
            stdin: a FIFO, file or character device outside the container that it reads; None: nothing.
            stdout: one that it writes to, such as a file that is there; None: `/dev/null`.
            stderr: the same for its errors.
            options: see `shimpy.ExecOptions`.

        Raises:
            TypeError: there is no such option, or an argument is of the wrong type.
            NotFoundError: the program, or one of the paths, is not there.
        """
        check_exec(args, options)

        async def create() -> int:
            paths = (None if path is None else os.path.abspath(path) for path in (stdin, stdout, stderr))
            source, output, errors = paths
            return await self._client.exec(args, stdin=source, stdout=output, stderr=errors, **options)

        pid, exited = await started(self._client, self._exits, create)
        return SpawnedProcess(self._client, self.id, pid, exited)


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


async def _deleted(client: ShimCalls, pid: int, exited: asyncio.Future[Exit]) -> None:
    """Deletes a container, and tells its end to who waits for it: the event may come too late."""
    status = await client.delete(pid)
    if not exited.done():
        exited.set_result(Exit(status))


async def delete_container(client: ShimCalls) -> None:
    """Kills and deletes the container that a shim has, if it has one."""
    pid = (await client.state()).pid
    if pid:
        with suppress(NotFoundError):
            await client.delete(pid)
