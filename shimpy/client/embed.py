"""A shim in the caller's own process and event loop."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from shimpy.client.arguments import check_kinds
from shimpy.client.client import ShimClient
from shimpy.client.connect import disable_reconnect
from shimpy.client.container import delete_container
from shimpy.client.direct_channel import DirectChannel
from shimpy.client.program_guard import ProgramGuard
from shimpy.client.rpc import settled
from shimpy.errors import ShimError
from shimpy.services.shim_v1 import Shim

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from grpclib.client import Channel

    from shimpy.core.hooks.interface import Hooks

_log = logging.getLogger("shimpy.shim")


@asynccontextmanager
async def in_process(
    *,
    runtime: str = "runc",
    root: str | None = None,
    leave_running: bool = False,
    hooks: Hooks | Iterable[Hooks] = (),
) -> AsyncIterator[ShimClient]:
    """Runs a shim in this process, for the time of the block; there may be many at a time.

    Nothing is started and nothing listens: the calls go through memory. While one is open the
    process is a child subreaper (`PR_SET_CHILD_SUBREAPER`), and SIGCHLD, if your program ignores
    it, is at its default, which only the main thread can see to; both are put back when the last
    one ends. Any thread's event loop will do, SIGCHLD stays yours to handle, and your own child
    processes keep their exit statuses. Should this process die, however that be, its containers are
    killed and removed within seconds, unless they were to be left running; a small process in a
    session of its own sees to it, which is started with the first container and ends with this one.

    Args:
        runtime: the OCI runtime, a name on PATH or an absolute path.
        root: where the runtime keeps its state (its `--root`); None: its default.
        leave_running: leave a container that is there at the end, or when this process dies, instead of
            killing it.
        hooks: one object with hooks, or several, in the order in which they are asked. They run in threads
            of their own; see `shimpy.Hooks`.
    """
    check_kinds(str, runtime=runtime, root=root)
    check_kinds(bool, leave_running=leave_running)
    guard = None if leave_running else ProgramGuard(runtime, root)
    with nullcontext() if guard is None else guard:
        async with Shim(runtime=runtime, root=root, hooks=hooks) as shim, AsyncExitStack() as stack:
            channel = stack.enter_context(DirectChannel(shim))
            client = ShimClient(channel, guard, task=_TaskChannel(shim, stack))
            try:
                yield client
            finally:
                try:
                    if guard is not None:
                        await settled(delete_container(client))
                except ShimError as error:  # what the block itself raised is to be heard
                    if guard is not None:
                        guard.keep()
                    _log.warning("the container could not be deleted: %s", error)
                finally:
                    await client.aclose()


class _TaskChannel:
    """The channel to the Task API of a shim in this process, made when it is first asked for.

    Args:
        shim: whose container it is about.
        stack: closes it.
    """

    def __init__(self, shim: Shim, stack: AsyncExitStack) -> None:
        self._shim = shim
        self._stack = stack
        self._making = asyncio.Lock()
        self._channel: Channel | None = None

    async def __call__(self) -> Channel:
        async with self._making:
            if self._channel is None:
                from grpclib.testing import ChannelFor

                from shimpy.services.task.service import NAMES, TaskService
                from shimpy.transport.grpc.methods import MethodService

                methods = TaskService(self._shim.supervisor).services()
                services = [MethodService(name, methods[name]) for name in NAMES]
                self._channel = await self._stack.enter_async_context(ChannelFor(services))
                disable_reconnect(self._channel)
        return self._channel
