"""The start, pause and resume of a container, and the state that they bring it to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from shimpy.core.container.context import Created
from shimpy.core.container.process_table import ProcessTable
from shimpy.core.container.state import State
from shimpy.core.model import EventKind
from shimpy.errors import FailedPreconditionError, ShimError

if TYPE_CHECKING:
    from shimpy.core.container.journaled import ContainerJournal

_log = logging.getLogger(__name__)


class Changes:
    """Changes what a container is doing; one at a time.

    Args:
        container_id: the container.
        table: its processes.
        journal: is told of what is about to be done; None if there is none.

    Attributes:
        state: what it is doing.
    """

    def __init__(
        self, container_id: str, table: ProcessTable, journal: ContainerJournal | None = None
    ) -> None:
        self.state = State.CREATED
        self._id = container_id
        self._table = table
        self._journal = journal

    async def start(self, created: Created) -> None:
        """Lets init run."""
        with self._intended("start"):
            await self._start(created)

    async def pause(self, created: Created) -> None:
        """Freezes all of it."""
        with self._intended("pause"):
            await created.pause.pause()
            if self.state is State.RUNNING:
                self.state = State.PAUSED
                _log.info("container %s paused", self._id)
                self._table.publish(EventKind.PAUSED, created.init)

    async def resume(self, created: Created) -> None:
        """Thaws all of it."""
        with self._intended("resume"):
            try:
                await created.pause.resume()
            except ShimError:
                if created.pause.thawed:
                    self._resumed(created)
                raise
            self._resumed(created)

    async def _start(self, created: Created) -> None:
        init, start = created.init, created.start
        had_process = init.child is not None
        try:
            await start.run()
        except ShimError as error:
            if not start.begun and had_process and init.exit_status is not None:
                raise FailedPreconditionError(
                    f"start: init of container {self._id} has died with status {init.exit_status}: {error}"
                ) from error
            raise
        finally:
            if not had_process and not start.begun:
                self.state = State.STOPPED
            if start.begun:
                if init.exit_status is None:
                    self.state = State.RUNNING
                _log.info("container %s started", self._id)
                self._table.started(init)

    async def checkpoint(self, created: Created, command: Coroutine[Any, Any, None]) -> None:
        """Runs the runtime's command; called off because init has died, it completes: it may have ended it.

        Raises:
            ShimError: the runtime refused.
        """
        running = asyncio.ensure_future(command)
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            if created.init.exit_status is None:
                running.cancel()
            await asyncio.wait([running])
        await running

    def _intended(self, op: str) -> AbstractContextManager[None]:
        return nullcontext() if self._journal is None else self._journal.during(op)

    def _resumed(self, created: Created) -> None:
        if self.state is State.PAUSED:
            self.state = State.RUNNING
            _log.info("container %s resumed", self._id)
            self._table.publish(EventKind.RESUMED, created.init)
