"""What shim.v1 has no call for, asked of containerd's Task API, which a shim serves beside it."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal as signals
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from grpclib.client import UnaryUnaryMethod

from shimpy.client.rpc import settled
from shimpy.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError, ShimError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import betterproto
    from grpclib.client import Channel

    from shimpy.client.model import Stats
    from shimpy.client.restarts import CallRepeater

_Reply = TypeVar("_Reply", bound="betterproto.Message")

_SERVICE = "/containerd.task.v2.Task"
_PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"


class TaskCalls:
    """Makes calls of the Task API.

    A process is named by its container and its exec id: "" for init, the pid for what shim.v1 has made.

    Args:
        channel: gives a grpclib channel to what serves the API; asked for at each call.
        calls: makes the calls.
    """

    def __init__(self, channel: Callable[[], Awaitable[Channel]], calls: CallRepeater) -> None:
        self._channel = channel
        self._calls = calls

    async def kill(self, container_id: str, exec_id: str, signal: int, *, everything: bool = False) -> None:
        """Sends a signal to a process.

        Args:
            container_id: its container.
            exec_id: its name there.
            signal: the number of the signal.
            everything: to all processes of the container instead.

        Raises:
            FailedPreconditionError: it has ended.
        """
        from shimpy.api import task

        request = task.KillRequest(container_id, exec_id, signal, everything)
        try:
            await self._empty("Kill", request)
        except NotFoundError as error:
            raise FailedPreconditionError(f"the process has ended: {error}") from error

    async def wait(self, container_id: str, exec_id: str) -> int:
        """Waits for the end of a process and returns its exit status."""
        from shimpy.api import task

        reply = await self._call("Wait", task.WaitRequest(container_id, exec_id), task.WaitResponse)
        return reply.exit_status

    async def close_stdin(self, container_id: str, exec_id: str) -> None:
        """Lets go of a stdin that the shim holds open, or of a terminal's."""
        from shimpy.api import task

        await self._empty("CloseIO", task.CloseIoRequest(container_id, exec_id, stdin=True))

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """Changes the limits of a container.

        Args:
            container_id: which.
            resources: `linux.resources` of the OCI runtime-spec.
        """
        from shimpy.api import task, well_known

        value = well_known.Any(_RESOURCES, json.dumps(resources).encode())
        await self._empty("Update", task.UpdateTaskRequest(container_id, value))

    async def pids(self, container_id: str) -> list[int]:
        """Returns every process in a container, as the host numbers them."""
        from shimpy.api import task

        reply = await self._call("Pids", task.PidsRequest(container_id), task.PidsResponse)
        return [process.pid for process in reply.processes]

    async def stats(self, container_id: str) -> Stats:
        """Returns what a container uses.

        Raises:
            FailedPreconditionError: it has ended, and its cgroups are gone.
        """
        from shimpy.api import task
        from shimpy.client.stats import read_stats

        try:
            reply = await self._call("Stats", task.StatsRequest(container_id), task.StatsResponse)
        except NotFoundError as error:
            raise FailedPreconditionError(f"the container has ended: {error}") from error
        return read_stats(reply.stats)

    async def exec_terminal(
        self,
        container_id: str,
        process: Mapping[str, Any],
        *,
        stdin: str,
        stdout: str,
        size: tuple[int, int],
    ) -> tuple[int, str]:
        """Starts a process on a terminal that has its size from the first moment on.

        Args:
            container_id: where.
            process: the `process` of the OCI runtime-spec.
            stdin: a FIFO of what is typed.
            stdout: a FIFO of what the terminal shows.
            size: columns and rows.

        Returns:
            Its pid and its exec id.
        """
        from shimpy.api import task, well_known

        exec_id = f"pty-{secrets.token_hex(8)}"
        spec = well_known.Any(_PROCESS, json.dumps(process).encode())
        request = task.ExecProcessRequest(
            container_id, exec_id, terminal=True, stdin=stdin, stdout=stdout, spec=spec
        )
        with suppress(AlreadyExistsError):  # the name is nobody else's: its shim has died before it answered
            await self._empty("Exec", request)
        started = False
        try:
            await self._empty("ResizePty", task.ResizePtyRequest(container_id, exec_id, *size))
            start = task.StartRequest(container_id, exec_id)
            started = True
            try:
                return (await self._call("Start", start, task.StartResponse)).pid, exec_id
            except FailedPreconditionError:
                # It may have been started by a shim that has died before it answered.
                state = task.StateRequest(container_id, exec_id)
                if not (pid := (await self._call("State", state, task.StateResponse)).pid):
                    raise
                return pid, exec_id
        except asyncio.CancelledError:
            # The server completes what it has begun, so it may run.
            await settled(self._forget(container_id, exec_id, kill=started))
            raise
        except ShimError:
            await settled(self._forget(container_id, exec_id, kill=False))
            raise

    async def _forget(self, container_id: str, exec_id: str, *, kill: bool) -> None:
        """Deletes an exec that nobody will ask for."""
        from shimpy.api import task

        with suppress(ShimError):  # the container's end is the end of what cannot be deleted now
            if kill:
                await self.kill(container_id, exec_id, signals.SIGKILL)
                await self.wait(container_id, exec_id)
            await self._call("Delete", task.DeleteRequest(container_id, exec_id), task.DeleteResponse)

    async def _empty(self, method: str, request: betterproto.Message) -> None:
        from shimpy.api import well_known

        await self._call(method, request, well_known.Empty)

    async def _call(self, method: str, request: betterproto.Message, reply: type[_Reply]) -> _Reply:
        channel = await self._channel()
        made: UnaryUnaryMethod[Any, _Reply] = UnaryUnaryMethod(
            channel, f"{_SERVICE}/{method}", type(request), reply
        )
        return await self._calls.make(made, request)
