"""What is done to a container as a whole: its state, its end, its limits."""

from __future__ import annotations

import asyncio
import signal as signals
from contextlib import suppress
from typing import TYPE_CHECKING

from shimpy.client.arguments import check_signal
from shimpy.client.limits import resources
from shimpy.client.rpc import seconds
from shimpy.errors import FailedPreconditionError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shimpy.client.exits import Exit, ExitWatch
    from shimpy.client.model import ContainerState, Stats
    from shimpy.client.shim_calls import ShimCalls


class ContainerControl:
    """A running container, as a whole.

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
        exited: asyncio.Future[Exit],
    ) -> None:
        self.id = id
        self.pid = pid
        self._client = client
        self._exits = exits
        self._exited = exited

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
        status = (await asyncio.shield(self._exited)).status
        if status is not None:
            return status
        try:
            return await self._client.task.wait(self.id, "")
        except UnimplementedError:  # of a shim without that API only Delete tells
            return await self._client.delete(self.pid)

    async def kill(self, signal: int = signals.SIGKILL, *, everything: bool = False) -> None:
        """Sends a signal to init.

        With init's end, which `wait` waits for, ends all that runs in the container. It stays there, stopped,
        until it is deleted. As init of a pid namespace it gets only signals that it handles, and SIGKILL
        (pid_namespaces(7)).

        Args:
            signal: a number, or one of `signal.Signals`.
            everything: send it to every process in the container.

        Raises:
            FailedPreconditionError: init has ended.
        """
        await self._client.task.kill(self.id, "", check_signal(signal), everything=everything)

    async def stop(self, timeout: float = 10.0) -> int:
        """Ends init as `docker stop` does: by SIGTERM, and by SIGKILL if it takes too long.

        Args:
            timeout: seconds between the two.

        Returns:
            Its exit code, or 128 + the signal that ended it; also if it had ended before.
        """
        return await stop(self.kill, self.wait, timeout)

    async def stats(self) -> Stats:
        """Returns what the container uses now.

        Raises:
            FailedPreconditionError: it has ended, and its cgroups are gone.
        """
        return await self._client.task.stats(self.id)

    async def pids(self) -> list[int]:
        """Returns every process in the container, as the host numbers them."""
        return await self._client.task.pids(self.id)

    async def update(
        self,
        *,
        memory: int | None = None,
        memory_swap: int | None = None,
        cpus: float | None = None,
        pids: int | None = None,
    ) -> None:
        """Changes the container's limits while it runs; None leaves one as it is.

        Args:
            memory: bytes.
            memory_swap: bytes of memory and swap together, -1 for any; None: as *memory*, which is no swap.
            cpus: how many CPUs' worth of time, such as 0.5; infinity: any.
            pids: processes and threads.

        Raises:
            TypeError: a limit is of the wrong type.
            ValueError: a limit is out of range, or none is given.
            FailedPreconditionError: the container is stopped.
            ShimError: the runtime refused, for instance because more memory is used already.
        """
        limits = resources(memory=memory, memory_swap=memory_swap, cpus=cpus, pids=pids)
        await self._client.task.update(self.id, limits)


async def stop(
    kill: Callable[[int], Awaitable[None]], wait: Callable[[], Awaitable[int]], timeout: float
) -> int:
    """Ends a process by SIGTERM, and by SIGKILL if that takes too long.

    Args:
        kill: sends a signal.
        wait: waits for its end and returns its exit status.
        timeout: seconds between the two.
    """
    limit = seconds(timeout)
    with suppress(FailedPreconditionError):  # it has ended
        await kill(signals.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            return await wait()
    with suppress(FailedPreconditionError):
        await kill(signals.SIGKILL)
    return await wait()
