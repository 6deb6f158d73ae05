"""One container: the states it is in and what each allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from shimpy.core.cgroup import Cgroup
from shimpy.core.container.changes import Changes
from shimpy.core.container.context import Context, Created
from shimpy.core.container.create import Create, CreateOptions
from shimpy.core.container.death import InitDeath
from shimpy.core.container.delete import Delete
from shimpy.core.container.execs import Execs
from shimpy.core.container.operation import Operation, Operations
from shimpy.core.container.pause import Pause
from shimpy.core.container.prepare import Prepare, RunCreate, hooked_create, prepare_create
from shimpy.core.container.process import Process
from shimpy.core.container.process_table import ProcessTable
from shimpy.core.container.restore import Restore
from shimpy.core.container.signals import send_signal
from shimpy.core.container.start import Start
from shimpy.core.container.state import State, require
from shimpy.core.model import ContainerEvent, EventKind, Policy, StdioPaths
from shimpy.core.runtime.bundle import Bundle
from shimpy.errors import FailedPreconditionError, NotFoundError, ShimError

_log = logging.getLogger(__name__)

_DEFAULT_OPTIONS = CreateOptions()


class ManagedContainer:
    """A container of the runtime: its init process and any number of exec'd ones.

    It knows no protocol. Of a method that raises, or is cancelled, nothing that it began is left.

    Args:
        context: what it is made with.
        publish: called with each event, in order; see `process_table.ProcessTable`.
        policy: how its init lives.

    Attributes:
        id: its id, as `spec.check_id` accepts it.
        runtime: whose commands run it.
        deleted: True once init is deleted, and with it the container.
        execs: starts further processes in it.
    """

    def __init__(
        self, context: Context, *, publish: Callable[[ContainerEvent], None], policy: Policy
    ) -> None:
        self.id = context.id
        self.runtime = context.runtime
        self.deleted = False
        self._context = context
        self._policy = policy
        self._table = ProcessTable(self.id, publish, self._settle, context.hooks, context.journal)
        self._held = ExitStack()
        self._operations = Operations(self._settle)
        self._create_operation: Operation[Process] | None = None
        self._created: Created | None = None
        self._delete = Delete(self.id, self._table, self._operations, self.runtime)
        self.execs = Execs(
            context, self._table, self._operations, self._existing, lambda: self._require("exec")
        )
        self._changes = Changes(self.id, self._table, context.journal)
        self._death = InitDeath(self.id, self._table, self._operations)

    @property
    def bundle(self) -> Bundle:
        """What it is made from."""
        return self._context.bundle

    @property
    def state(self) -> State:
        """What it is doing."""
        return self._changes.state

    @property
    def init(self) -> Process | None:
        """Its first process; None before it is created and once it is deleted."""
        return self._table.init

    @property
    def cgroup(self) -> Cgroup:
        """Its cgroups.

        Raises:
            NotFoundError: it is not created.
        """
        return self._existing().cgroup

    @property
    def is_pausing(self) -> bool:
        """True while it is being paused."""
        return self._operations.exclusive == "paused"

    @property
    def create_started(self) -> bool:
        """True once a create of it has got as far as the runtime."""
        return self._create_operation is not None

    @property
    def is_gone(self) -> bool:
        """True once nothing of it is left: it is deleted, or its create has failed."""
        create = self._create_operation
        return self.deleted or (create is not None and create.done and self.init is None)

    @property
    def is_rolling_back(self) -> bool:
        """True while a create that was cancelled is rolled back."""
        create = self._create_operation
        return create is not None and create.cancelling_or_done and not create.done

    async def wait_rolled_back(self) -> None:
        """Waits until a create that was cancelled has been rolled back."""
        if self._create_operation is not None:
            await self._create_operation.wait()

    def processes(self) -> Iterator[Process]:
        """Yields its processes, init first, then the execs in order of start."""
        return iter(list(self._table))

    def get(self, exec_id: str) -> Process:
        """Returns a process that is not deleted; see `ProcessTable.get`."""
        return self._table.get(exec_id)

    def state_of(self, process: Process) -> State:
        """Returns what a process of it is doing."""
        if process is self.init:
            return self.state
        if process.exit_status is not None:
            return State.STOPPED
        if process.pid == 0:
            return State.CREATED
        return State.RUNNING if self.state is State.CREATED else self.state

    async def create(self, stdio: StdioPaths, options: CreateOptions = _DEFAULT_OPTIONS) -> Process:
        """Creates it, up to where `start` lets its process run, or restores it from a checkpoint.

        Args:
            stdio: what init reads and writes; the bundle has to say the same of a terminal.
            options: how the runtime makes it.

        Returns:
            Its init.
        """
        self.bundle.check_terminal(terminal=stdio.terminal)
        ended = self._init_exited, self._death.noticed
        prepare = partial(prepare_create, self._context, stdio, self._policy, options, *ended)
        run = self._run_create if options.checkpoint is None else self._run_create_restored
        work = run(*prepare()) if self._context.hooks is None else self._run_hooked_create(run, prepare)
        self._create_operation = self._operations.begin(work)
        return await self._create_operation.result()

    async def start(self) -> None:
        """Lets the created container's process run."""
        await self._require("start")
        await self._operations.begin(self._changes.start(self._existing()), "started").result()

    async def pause(self) -> None:
        """Freezes every process of the running container."""
        await self._require("pause")
        await self._operations.begin(self._changes.pause(self._existing()), "paused").result()

    async def resume(self) -> None:
        """Thaws every process of the paused container."""
        await self._require("resume")
        await self._operations.begin(self._changes.resume(self._existing()), "resumed").result()

    def kill(self, process: Process, signum: int, *, everything: bool = False) -> None:
        """Sends a signal.

        Args:
            process: one of its processes.
            signum: the number of the signal.
            everything: to every process in the container instead.

        Raises:
            NotFoundError: it has exited.
            FailedPreconditionError: it is not started.
        """
        send_signal(process, signum, self._existing(), everything=everything)

    async def update(self, resources: Mapping[str, Any]) -> None:
        """Changes its limits, unless it is stopped.

        Args:
            resources: the `linux.resources` object of the OCI runtime-spec.
        """
        await self._require("update")
        await self.runtime.update(self.id, resources)

    async def checkpoint(self, options: Sequence[str]) -> None:
        """Writes the state of its processes to files, if it runs.

        Args:
            options: of the runtime's command.
        """
        await self._require("checkpoint")
        checkpoint = self._changes.checkpoint(self._existing(), self.runtime.checkpoint(self.id, options))
        await self._operations.begin(checkpoint, "checkpointed").result()

    async def delete(self, process: Process) -> int:
        """Kills a process if it still runs, with what its policy says, and forgets it.

        Deleting init deletes the container. Concurrent calls for one process share one answer.

        Returns:
            The exit status: the exit code, or 128 + the number of the signal.
        """
        work = self._run_delete if process is self.init else self._delete.exec
        return await self._delete.shared(process, work)

    def forget(self, process: Process) -> None:
        """Forgets an exec that has exited, without a delete."""
        self._table.remove(process)

    async def abandon(self, reason: ShimError) -> None:
        """Cancels whatever is under way, and waits until it is rolled back; processes go on."""
        await self._operations.cancel_all(reason)
        for process in list(self._table):
            if process.deletion is not None:
                process.deletion.abort(reason)
                await process.deletion.wait()
            process.io.close()
        self._table.close()
        await self._death.abandon()
        if self._created is not None:
            self._created.cgroup.forget()
        self._held.close()

    async def _run_hooked_create(self, run: RunCreate, prepare: Prepare) -> Process:
        async with hooked_create(self._context, self._held) as hooked:
            return await run(*prepare(hooked))

    async def _run_create(self, create: Create, init: Process) -> Process:
        try:
            cgroup = await create.run(init)
        except BaseException:
            create.release()
            raise
        self._held.callback(create.release)
        self._hold(init, cgroup, Start(self.id, init, self.runtime))
        _log.info("container %s created with init %d", self.id, init.pid)
        self._table.created(init, cgroup)
        return init

    async def _run_create_restored(self, create: Create, init: Process) -> Process:
        """Has it restored by its start; until then there is nothing but its name and its stdio."""
        self._held.callback(create.release)
        self._hold(init, Cgroup(), Restore(create, init, self._restored))
        _log.info("container %s created, to be restored from a checkpoint", self.id)
        self._table.created(init, Cgroup())
        return init

    def _restored(self, cgroup: Cgroup) -> None:
        self._hold(self._existing().init, cgroup, self._existing().start)
        self._table.use(cgroup)

    def _hold(self, init: Process, cgroup: Cgroup, start: Start | Restore) -> None:
        self._held.callback(self._context.reaper.claim(cgroup.had, watch=self.bundle.shares_pids))
        self._created = Created(init, cgroup, start, Pause(self.id, cgroup, self.runtime))

    async def _run_delete(self, init: Process) -> int:
        status = await self._delete.init(init, self._existing().cgroup, self._death.tasks)
        self.deleted = True
        self._table.publish(EventKind.DELETE, init)
        self._table.clear()
        self._held.close()
        _log.info("container %s deleted", self.id)
        return status

    def _init_exited(self, init: Process) -> None:
        self._changes.state = State.STOPPED
        _log.info("container %s stopped with status %d", self.id, init.final_status)
        self._settle()

    def _settle(self) -> None:
        """Publishes init's exit, once nothing is under way that could still name a process."""
        if not self._operations:
            self._table.finish()

    def _existing(self) -> Created:
        if self._created is None or self.init is None:
            raise NotFoundError(f"container {self.id} is not created, or has been deleted")
        return self._created

    async def _require(self, call: str) -> None:
        await self._operations.wait_rolled_back()
        exclusive = "deleted" if self._delete.is_deleting_init else self._operations.exclusive
        require(call, self.id, self.state, exclusive)
        if call != "start" and self.init is not None and self.init.pid == 0:
            raise FailedPreconditionError(
                f"{call}: container {self.id} is to be restored from a checkpoint; start it first"
            )
