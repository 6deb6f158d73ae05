"""The calls of the API, one typed method for each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shimpy import api
from shimpy.client.arguments import check_exec, check_kinds
from shimpy.client.guard import NoGuard
from shimpy.client.model import ContainerState, ExecOptions, ProcessInfo, ProcessState, StrPath
from shimpy.client.requests import exec_request, exec_spec, path_text
from shimpy.client.restarts import CallRepeater
from shimpy.client.rpc import seconds
from shimpy.client.subscription import EventStream
from shimpy.client.task_calls import TaskCalls
from shimpy.core.runtime import spec
from shimpy.core.runtime.bundle import Bundle
from shimpy.errors import FailedPreconditionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Unpack

    from grpclib.client import Channel

    from shimpy.client.guard import Guard


class ShimCalls:
    """Makes the calls of one shim, which looks after one container at a time.

    Every method may be called while others are under way. Every method that takes `timeout`
    gives the shim that many seconds to answer (None, or infinity: as long as it takes); a call that
    is out of time, or is cancelled, has full effect or none.

    Raises:
        ValueError: a timeout is negative or NaN.
        ShimError: from every method; the class says what kind (see `shimpy.errors`), the
            message says what was wrong. UnavailableError when the shim is gone.

    Attributes:
        created: id and runtime of the container that was last created here, None before.
        guard: what happens with what is made here should this program die.
        calls: makes them.
        task: what shim.v1 has no call for.
    """

    def __init__(
        self,
        channel: Channel,
        guard: Guard | None = None,
        *,
        task: Callable[[], Awaitable[Channel]] | None = None,
    ) -> None:
        """Makes the calls over a grpclib channel, which stays the caller's to close.

        Args:
            channel: to the shim.
            guard: see the attribute; None: it stays.
            task: gives the channel to the Task API, where that is another.
        """
        self._channel = channel
        self.guard = guard or NoGuard()
        self._stub = api.ShimStub(channel)
        self.calls = CallRepeater(channel)
        self.created: tuple[str, str] | None = None
        self.task = TaskCalls(task or self._same_channel, self.calls)
        self._bundle: tuple[str, int, Bundle] | None = None

    async def create(
        self,
        id: str,
        bundle: StrPath,
        *,
        runtime: str = "",
        no_pivot: bool = False,
        terminal: bool = False,
        stdin: StrPath | None = None,
        stdout: StrPath | None = None,
        stderr: StrPath | None = None,
        timeout: float | None = None,
    ) -> int:
        """Creates the container; its init waits for `start`.

        Args:
            id: its name: letters, digits and `_ + - .`.
            bundle: the directory with its `config.json`; a relative one is taken from here.
            runtime: an OCI runtime's name or absolute path; empty: the shim's own default.
            no_pivot: let the runtime do without `pivot_root(2)`, as on a ramdisk.
            terminal: init gets a terminal; must be what the bundle says.
            stdin: a FIFO, file or character device that init reads; None: `/dev/null`.
            stdout: where init writes; with a terminal, what the terminal shows. A FIFO becomes init's
                user's if that is another in a user namespace; root can read it still.
            stderr: the same for its errors; not used with a terminal.
            timeout: seconds.

        Returns:
            The pid of init, as the host numbers it.

        Raises:
            AlreadyExistsError: the shim has a container.
            NotFoundError: bundle, runtime or one of the paths is not there.
        """
        check_kinds(str, id=id, runtime=runtime)
        check_kinds(bool, no_pivot=no_pivot, terminal=terminal)
        request = api.CreateRequest(
            id=id,
            bundle=os.path.abspath(bundle),
            runtime=runtime,
            no_pivot=no_pivot,
            terminal=terminal,
            stdin=path_text(stdin),
            stdout=path_text(stdout),
            stderr=path_text(stderr),
        )
        timeout = seconds(timeout)
        with self.guard.creating(id, request.bundle, runtime) as created:
            reply = await self.calls.make(self._stub.create, request, timeout)
            created(reply.pid)
        self.created = (id, runtime)
        return reply.pid

    async def start(self, *, timeout: float | None = None) -> None:
        """Starts init.

        Args:
            timeout: seconds.

        Raises:
            FailedPreconditionError: it has been started, or has died, or was never created.
        """
        await self.calls.make(self._stub.start, api.StartRequest(), seconds(timeout))

    async def exec(
        self,
        args: Sequence[str],
        *,
        terminal: bool = False,
        stdin: StrPath | None = None,
        stdout: StrPath | None = None,
        stderr: StrPath | None = None,
        timeout: float | None = None,
        **options: Unpack[ExecOptions],
    ) -> int:
        """Runs a further process in the container.

        Args:
            args: the program and its arguments.
            terminal: it gets a terminal.
            stdin: a FIFO, file or character device that it reads; None: `/dev/null`.
            stdout: where it writes; with a terminal, what the terminal shows.
            stderr: where it writes its errors; not used with a terminal.
            timeout: seconds until it has been started.
            options: see `shimpy.ExecOptions`; what is left out is as the container has it.

        Returns:
            Its pid, as the host numbers it.

        Raises:
            TypeError: there is no such option, or something is of the wrong type.
            InvalidArgumentError: something has a value that nothing can have.
            NotFoundError: the program, or one of the paths, is not there.
            PermissionDeniedError: the program may not be run.
            FailedPreconditionError: the container is neither created nor running.
        """
        check_exec(args, options)
        deadline = seconds(timeout)
        asked = exec_spec(args, options)
        if asked.env:
            asked = (await self.current_bundle()).with_own_env(asked)
        request = exec_request(asked, terminal=terminal, stdin=stdin, stdout=stdout, stderr=stderr)
        return (await self.calls.make(self._stub.exec, request, deadline)).pid

    async def exec_on_terminal(
        self,
        args: Sequence[str],
        *,
        stdin: StrPath,
        stdout: StrPath,
        size: tuple[int, int],
        **options: Unpack[ExecOptions],
    ) -> tuple[int, str]:
        """Runs a further process in the container, on a terminal that has its size from the beginning.

        Args:
            args: the program and its arguments.
            stdin: a FIFO of what is typed.
            stdout: a FIFO of what the terminal shows.
            size: its columns and rows.
            options: see `shimpy.ExecOptions`.

        Returns:
            Its pid, and the name that the Task API knows it by.
        """
        asked = exec_spec(args, options)._replace(terminal=True)
        spec.check_exec(asked)
        bundle = await self.current_bundle()
        process = bundle.process_for(bundle.with_own_env(asked))
        process["consoleSize"] = {"width": size[0], "height": size[1]}
        return await self.task.exec_terminal(
            (await self.state()).id, process, stdin=path_text(stdin), stdout=path_text(stdout), size=size
        )

    async def current_bundle(self) -> Bundle:
        """Returns the bundle of the container that there is, as it was when it was first asked for.

        Raises:
            FailedPreconditionError: there is no container.
            NotFoundError: its bundle is not there any more.
        """
        state = await self.state()
        if not state.pid:
            raise FailedPreconditionError("exec: there is no container; create one first")
        if self._bundle is None or self._bundle[:2] != (state.id, state.pid):
            self._bundle = (state.id, state.pid, Bundle.read(state.bundle))
        return self._bundle[2]

    async def delete(self, pid: int, *, timeout: float | None = None) -> int:
        """Deletes a process; one that still runs is killed, with everything that it started.

        Args:
            pid: as create or exec returned it; init's deletes the container.
            timeout: seconds.

        Returns:
            Its exit code, or 128 + the signal that ended it.

        Raises:
            NotFoundError: it is not one of this shim's, or has been deleted.
        """
        check_kinds(int, pid=pid)
        reply = await self.calls.make(self._stub.delete, api.DeleteRequest(pid=pid), seconds(timeout))
        self.guard.deleted(pid)
        return reply.exit_status

    async def resize(self, pid: int, width: int, height: int, *, timeout: float | None = None) -> None:
        """Sets the size of a process's terminal.

        Args:
            pid: as create or exec returned it.
            width: columns, up to 65,535.
            height: rows, up to 65,535.
            timeout: seconds.

        Raises:
            FailedPreconditionError: the process has exited, or has no terminal.
            NotFoundError: it is not one of this shim's.
        """
        check_kinds(int, pid=pid, width=width, height=height)
        request = api.PtyRequest(pid=pid, width=width, height=height)
        await self.calls.make(self._stub.pty, request, seconds(timeout))

    async def state(self, *, timeout: float | None = None) -> ContainerState:
        """Returns what there is; without a container an empty state, so this is a probe as well.

        Args:
            timeout: seconds.
        """
        reply = await self.calls.make(self._stub.state, api.StateRequest(), seconds(timeout))
        processes = tuple(ProcessInfo(p.pid, ProcessState[p.state.name or ""]) for p in reply.processes)
        return ContainerState(reply.id, reply.bundle, reply.init_pid, processes)

    async def pause(self, *, timeout: float | None = None) -> None:
        """Freezes every process of the container.

        Args:
            timeout: seconds.

        Raises:
            FailedPreconditionError: the container is not running.
        """
        await self.calls.make(self._stub.pause, api.PauseRequest(), seconds(timeout))

    async def resume(self, *, timeout: float | None = None) -> None:
        """Lets a paused container go on.

        Args:
            timeout: seconds.

        Raises:
            FailedPreconditionError: the container is not paused.
        """
        await self.calls.make(self._stub.resume, api.ResumeRequest(), seconds(timeout))

    async def _same_channel(self) -> Channel:
        return self._channel

    def events(self) -> EventStream:
        """Subscribes to the shim's events.

        For example:

            async with client.events() as events:  # from here on none is missed
                async for event in events:
                    print(event.type, event.pid)
        """
        return EventStream(self._channel, self.calls)
