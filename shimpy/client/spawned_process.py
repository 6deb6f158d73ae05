"""A process of a container that nobody has to look after."""

from __future__ import annotations

import asyncio
import signal as signals
from typing import TYPE_CHECKING

from shimpy.client.arguments import check_signal
from shimpy.client.control import stop
from shimpy.errors import FailedPreconditionError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from shimpy.client.exits import Exit
    from shimpy.client.shim_calls import ShimCalls


class SpawnedProcess:
    """A process that lives on until it ends, is killed or the container ends; see `shimpy.Container.spawn`.

    Once it has ended, all that it started is killed.

    Attributes:
        pid: as the host numbers it.
    """

    def __init__(self, client: ShimCalls, container_id: str, pid: int, exited: asyncio.Future[Exit]) -> None:
        self.pid = pid
        self._client = client
        self._container_id = container_id
        self._exited = exited
        self._killed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end = asyncio.ensure_future(self._until_end())
        self._end.add_done_callback(_seen)

    async def wait(self) -> int:
        """Waits for its end.

        Returns:
            Its exit code, or 128 + the signal that ended it.

        Raises:
            UnavailableError: the shim is gone.
        """
        return await asyncio.shield(self._end)

    async def kill(self, signal: int = signals.SIGKILL) -> None:
        """Kills it with all that it started, and returns once that is done; or sends it a signal.

        Args:
            signal: any other than SIGKILL is sent to the process alone, and not waited for.

        Raises:
            FailedPreconditionError: it has ended, so that there is nothing to send a signal to.
        """
        number = check_signal(signal)
        if number != signals.SIGKILL:
            if self._exited.done():
                raise FailedPreconditionError(f"process {self.pid} has ended")
            await self._client.task.kill(self._container_id, str(self.pid), number)
            return
        if not self._killed.done():
            self._killed.set_result(None)
        await self.wait()

    async def stop(self, timeout: float = 10.0) -> int:
        """Ends it by SIGTERM, and by SIGKILL if it takes too long.

        Args:
            timeout: seconds between the two.

        Returns:
            Its exit code, or 128 + the signal that ended it; also if it had ended before.
        """
        return await stop(self.kill, self.wait, timeout)

    async def _until_end(self) -> int:
        ends: set[asyncio.Future[Exit] | asyncio.Future[None]] = {self._exited, self._killed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        status = self._exited.result().status if self._exited.done() else None
        try:
            return await self._client.delete(self.pid)
        except (NotFoundError, UnavailableError):
            # The container is gone, or another client has deleted it.
            status = status if status is not None else (await self._exited).status
            if status is None:
                raise
            return status


def _seen(end: asyncio.Future[int]) -> None:
    if not end.cancelled():
        end.exception()  # wait() raises it, if anybody waits
