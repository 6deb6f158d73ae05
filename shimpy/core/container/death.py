"""The death of a container's init: nothing else of the container may outlive it."""

from __future__ import annotations

import asyncio
import logging

from shimpy.core.container.operation import Operations
from shimpy.core.container.process_table import ProcessTable
from shimpy.errors import FailedPreconditionError, ShimError

_log = logging.getLogger(__name__)


class InitDeath:
    """Ends what is left in a container once its init has died.

    Args:
        container_id: the container.
        table: its processes.
        operations: what is under way in it.

    Attributes:
        tasks: what is under way since then.
    """

    def __init__(self, container_id: str, table: ProcessTable, operations: Operations) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._id = container_id
        self._table = table
        self._operations = operations

    def noticed(self) -> None:
        """Init is dead: aborts the calls that wait for it, and kills the rest."""
        if self._table.init is None:
            # Still being created. Its death is part of rolling that back, or is published after the reply.
            return
        reason = FailedPreconditionError(f"container {self._id} has stopped")
        for operation in self._operations:
            # A start completes: a short-lived init is dead before the command that started it returns.
            operation.abort(reason)
        task = asyncio.get_running_loop().create_task(self._kill_rest())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def abandon(self) -> None:
        """Stops killing."""
        if self.tasks:
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(self.tasks)

    async def _kill_rest(self) -> None:
        # In a pid namespace of its own the kernel has killed it already.
        try:
            await self._table.kill()
        except ShimError as error:
            _log.warning("cannot kill what is left in container %s after its init: %s", self._id, error)
