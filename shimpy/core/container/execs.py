"""The further processes of a container, started in one step or in two."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from shimpy.core.container.context import Context, Created
from shimpy.core.container.exec import Exec
from shimpy.core.container.operation import Operations
from shimpy.core.container.process import Process
from shimpy.core.container.process_table import ProcessTable
from shimpy.core.model import Policy, StdioPaths
from shimpy.errors import FailedPreconditionError, NotFoundError, ShimError

if TYPE_CHECKING:
    from shimpy.core.hooks.container_hooks import ContainerHooks, Hooked

_log = logging.getLogger(__name__)

_cgroup_numbers = itertools.count(1)


class Execs:
    """Starts further processes in a created container; any number may be starting at a time.

    Args:
        context: the container's.
        table: its processes.
        operations: what is under way in it.
        existing: returns what there is of it, or raises.
        allow: returns once an exec is allowed, or raises.
    """

    def __init__(
        self,
        context: Context,
        table: ProcessTable,
        operations: Operations,
        existing: Callable[[], Created],
        allow: Callable[[], Awaitable[None]],
    ) -> None:
        self._context = context
        self._table = table
        self._operations = operations
        self._existing = existing
        self._allow = allow

    async def run(
        self,
        spec: Mapping[str, Any],
        stdio: StdioPaths,
        *,
        policy: Policy,
        name: Callable[[int], str],
    ) -> Process:
        """Starts one more process, in one step.

        Args:
            spec: the `process` object of the OCI runtime-spec.
            stdio: what it reads and writes.
            policy: how it lives.
            name: called with its pid once that is known, before anything is published of it; returns its
                exec id.

        Raises:
            ShimError: the state of the container forbids it, or the runtime refused.
        """
        await self._allow()
        hooked = None
        if (hooks := self._context.hooks) is not None:
            spec, hooked = await self._ask(hooks, spec, "")
        process = self._open(spec, stdio, policy, hooked)

        async def run() -> Process:
            await self._start(process)
            process.exec_id = name(process.pid)
            self._table.exec_started(process)
            return process

        return await self._operations.begin(run()).result()

    async def add(
        self, exec_id: str, spec: Mapping[str, Any], stdio: StdioPaths, *, policy: Policy
    ) -> Process:
        """Registers one more process, for `start` to start.

        Args:
            exec_id: its name in the container.
            spec: the `process` object of the OCI runtime-spec.
            stdio: what it reads and writes.
            policy: how it lives.

        Raises:
            AlreadyExistsError: the exec id is taken.
            ShimError: the state of the container forbids it, or the stdio cannot be used.
        """
        await self._allow()
        self._table.check_free(exec_id)
        hooked = None
        if (hooks := self._context.hooks) is not None:
            spec, hooked = await self._ask(hooks, spec, exec_id)
        process = self._open(spec, stdio, policy, hooked, exec_id)
        self._table.added(process)
        return process

    async def start(self, process: Process) -> None:
        """Starts an exec that was registered. One that fails to start stays, with an exit status of 255.

        Args:
            process: as `add` returned it.

        Raises:
            FailedPreconditionError: it was started before, or the state of the container forbids it.
            ShimError: the runtime refused.
        """
        await self._allow()
        if process.deleted or process.deletion is not None:
            raise NotFoundError(f"exec_id: exec {process.exec_id} is deleted")
        if process.spec is None or process.starting is not None:
            raise FailedPreconditionError(f"exec_id: exec {process.exec_id} has been started already")
        if self._context.hooks is not None and process.hooked is not None:
            self._context.hooks.requested(process.hooked)
        process.starting = self._operations.begin(self._start_added(process))
        await process.starting.result()

    async def _ask(
        self, hooks: ContainerHooks, spec: Mapping[str, Any], exec_id: str
    ) -> tuple[Mapping[str, Any], Hooked]:
        """Asks the hooks; what the container is in the meantime may forbid the exec."""
        spec, hooked = await self._operations.begin(hooks.exec(spec, exec_id)).result()
        try:
            await self._allow()
            if exec_id:
                self._table.check_free(exec_id)
        except BaseException as error:
            hooks.failed(hooked, error)
            raise
        return spec, hooked

    def _open(
        self,
        spec: Mapping[str, Any],
        stdio: StdioPaths,
        policy: Policy,
        hooked: Hooked | None,
        exec_id: str = "",
    ) -> Process:
        try:
            return self._context.open_process(
                stdio, spec, policy, self._table.exec_exited, exec_id=exec_id, hooked=hooked
            )
        except ShimError as error:
            self._tell_failed(hooked, error)
            raise

    def _tell_failed(self, hooked: Hooked | None, error: BaseException) -> None:
        if self._context.hooks is not None and hooked is not None:
            self._context.hooks.failed(hooked, error)

    async def _start_added(self, process: Process) -> None:
        try:
            await self._start(process)
        except BaseException:
            process.mark_start_failed()
            raise
        self._table.exec_started(process)

    async def _start(self, process: Process) -> None:
        """Has the runtime start a process, whole or not at all."""
        context = self._context
        try:
            created = self._existing()
            if process.policy.exec_cgroups:
                process.cgroup = created.cgroup.child(f"exec-{os.getpid()}-{next(_cgroup_numbers)}")
            if context.journal is not None:
                context.journal.intend_exec(process)
            spec, process.spec = process.spec or {}, None
            if process.size is not None:
                # So that it is right at the first look, which may come before the terminal does.
                spec = {**spec, "consoleSize": dict(zip(("width", "height"), process.size, strict=True))}
            run = Exec(
                context.id,
                context.bundle,
                created.init.pid,
                created.cgroup,
                context.runtime,
                context.reaper,
            )
            await run.run(process, spec)
        except BaseException as error:
            # Also where the container has been deleted before this began.
            process.release()
            if context.journal is not None:
                context.journal.undone("exec", process)
            self._tell_failed(process.hooked, error)
            raise
        _log.info("process %d added to container %s", process.pid, context.id)
