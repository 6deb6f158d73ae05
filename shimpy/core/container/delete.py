"""The delete of a process, and with init of the container."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Set as AbstractSet
from functools import partial
from typing import Any

from shimpy.core.cgroup import Cgroup
from shimpy.core.container.operation import Operation, Operations
from shimpy.core.container.process import Process
from shimpy.core.container.process_table import ProcessTable
from shimpy.core.runtime import Runtime
from shimpy.core.runtime.state import delete_state
from shimpy.errors import FailedPreconditionError, NotFoundError


class Delete:
    """Deletes processes of a container; may be tried again where the runtime fails.

    Args:
        container_id: the container.
        table: its processes.
        operations: what is under way in it.
        runtime: whose command removes it.

    Attributes:
        is_deleting_init: True while the container itself is being deleted.
    """

    def __init__(
        self, container_id: str, table: ProcessTable, operations: Operations, runtime: Runtime
    ) -> None:
        self.is_deleting_init = False
        self._id = container_id
        self._table = table
        self._operations = operations
        self._runtime = runtime

    async def shared(self, process: Process, work: Callable[[Process], Coroutine[Any, Any, int]]) -> int:
        """Deletes a process; concurrent calls share one answer.

        Args:
            process: which.
            work: deletes it and returns its exit status.

        Raises:
            NotFoundError: it has been deleted.
        """
        while process.deletion is not None and process.deletion.cancelling_or_done:
            await process.deletion.wait()
        if process.deleted:
            raise NotFoundError(f"process {process.pid} of container {self._id} has been deleted")
        if process.deletion is None:
            process.deletion = Operation(work(process), partial(_forget, process))
        return await process.deletion.result()

    async def exec(self, process: Process) -> int:
        """Deletes an exec; one that is being started, after that."""
        await process.start_settled()
        if process.pid:
            await process.kill()
            await process.exit_published()
            await _end_output(process)
        status = process.exit_status or 0
        self._table.remove(process, by_call=True)
        return status

    async def init(self, init: Process, cgroup: Cgroup, tasks: AbstractSet[asyncio.Task[None]]) -> int:
        """Deletes init, with everything in the container, and what the runtime holds of it.

        Args:
            init: the container's first process.
            cgroup: the container's.
            tasks: what is under way since init died.
        """
        self.is_deleting_init = True
        try:
            await self._operations.cancel_all(
                FailedPreconditionError(f"container {self._id} is being deleted")
            )
            await self._table.kill()
            if init.child is None and init.exit_status is None:
                init.mark_start_failed()
            await init.exit_published()
            if tasks:
                # Begun when init's exit was noticed. One may be about to thaw again what it has frozen, of
                # which the runtime must see nothing.
                await asyncio.wait(tasks)
            await asyncio.gather(*map(_end_output, self._table))
            # A cgroup that was frozen when init was dead already stays so, and the runtime would not
            # delete what it takes to be paused.
            cgroup.thaw()
            await cgroup.prune()
            await delete_state(self._runtime, self._id)
            cgroup.forget()
        finally:
            self.is_deleting_init = False
        return init.final_status


async def _end_output(process: Process) -> None:
    await process.io.drain(process.policy.drain_timeout)
    await process.io.finish()


def _forget(process: Process, _operation: Operation[int]) -> None:
    process.deletion = None
