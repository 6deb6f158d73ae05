"""One container: the states it is in and what each allows."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from shimpy.core.cgroup import Cgroup
from shimpy.core.container.create import Create
from shimpy.core.container.delete import Delete
from shimpy.core.container.exec import Exec
from shimpy.core.container.operation import Operation, Operations
from shimpy.core.container.pause import Pause
from shimpy.core.container.process import Process
from shimpy.core.container.process_table import ProcessTable
from shimpy.core.container.start import Start
from shimpy.core.container.state import State, require
from shimpy.core.model import ContainerEvent, EventKind, Policy, StdioPaths
from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runtime
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.stdio import StdioHub, check_window, open_stdio, owner_of
from shimpy.errors import FailedPreconditionError, NotFoundError, ShimError

_log = logging.getLogger(__name__)

_exec_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class _Created:
    """What there is of a container once its create has succeeded."""

    init: Process
    cgroup: Cgroup
    start: Start
    pause: Pause


class ManagedContainer:
    """A container of the runtime: its init process and any number of exec'd ones.

    Whoever serves it says what to do; the container knows no protocol. Each method is all or
    nothing: when it raises, or is cancelled, nothing of what it began is left.

    Args:
        container_id: its id, as `spec.check_id` accepts it.
        bundle: what it is made from.
        runtime: whose commands run it.
        reaper: waits for its processes.
        hub: watches its FIFOs.
        publish: called with each event, in order; see `process_table.ProcessTable`.
        policy: how its init lives.

    Attributes:
        id: its id.
        bundle: its bundle.
        runtime: see above.
        state: what it is doing.
        deleted: True once init is deleted, and with it the container.
    """

    def __init__(
        self,
        container_id: str,
        bundle: Bundle,
        *,
        runtime: Runtime,
        reaper: Reaper,
        hub: StdioHub,
        publish: Callable[[ContainerEvent], None],
        policy: Policy,
    ) -> None:
        self.id = container_id
        self.bundle = bundle
        self.runtime = runtime
        self.state = State.CREATED
        self.deleted = False
        self._reaper = reaper
        self._hub = hub
        self._policy = policy
        self._table = ProcessTable(container_id, publish, self._settle)
        self._held = ExitStack()
        self._operations = Operations(self._settle)
        self._create_operation: Operation[Process] | None = None
        self._created: _Created | None = None
        self._delete = Delete(container_id, self._table, self._operations, runtime)
        self._tasks: set[asyncio.Task[None]] = set()

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
        """Returns a process that is not deleted; "" is init.

        Raises:
            NotFoundError: there is none, or no longer.
        """
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

    async def create(self, stdio: StdioPaths, *, no_pivot: bool) -> Process:
        """Creates it, up to where `start` lets its process run.

        Args:
            stdio: what init reads and writes; the bundle has to say the same of a terminal.
            no_pivot: do not use pivot_root(2), for a rootfs on a ramdisk.

        Returns:
            Its init.
        """
        self.bundle.check_terminal(terminal=stdio.terminal)
        create = Create(self.id, self.bundle, self.runtime, self._reaper)
        try:
            init = self._process(stdio, self.bundle.process, self._policy, self._init_exited, self._init_died)
        except BaseException:
            create.release()
            raise
        self._create_operation = self._operations.begin(self._run_create(create, init, no_pivot=no_pivot))
        return await self._create_operation.result()

    async def start(self) -> None:
        """Lets the created container's process run."""
        await self._require("start")
        await self._operations.begin(self._run_start(self._existing()), "started").result()

    async def pause(self) -> None:
        """Freezes every process of the running container."""
        await self._require("pause")
        await self._operations.begin(self._run_pause(self._existing()), "paused").result()

    async def resume(self) -> None:
        """Thaws every process of the paused container."""
        await self._require("resume")
        await self._operations.begin(self._run_resume(self._existing()), "resumed").result()

    async def exec(
        self,
        spec: Mapping[str, Any],
        stdio: StdioPaths,
        *,
        policy: Policy,
        name: Callable[[int], str],
    ) -> Process:
        """Starts one more process in the container; any number may be starting at a time.

        Args:
            spec: the `process` object of the OCI runtime-spec.
            stdio: what it reads and writes.
            policy: how it lives.
            name: called with its pid once that is known, before anything is published of it; returns its
                exec id.
        """
        await self._require("exec")
        process = self._process(stdio, spec, policy, self._table.exec_exited)

        async def run() -> Process:
            await self._run_exec(process)
            process.exec_id = name(process.pid)
            self._table.exec_started(process)
            return process

        return await self._operations.begin(run()).result()

    async def add_exec(
        self, exec_id: str, spec: Mapping[str, Any], stdio: StdioPaths, *, policy: Policy
    ) -> Process:
        """Registers one more process, for `start_exec` to start.

        Args:
            exec_id: its name in the container.
            spec: the `process` object of the OCI runtime-spec.
            stdio: what it reads and writes.
            policy: how it lives.

        Raises:
            AlreadyExistsError: the exec id is taken.
        """
        await self._require("exec")
        self._table.check_free(exec_id)
        process = self._process(stdio, spec, policy, self._table.exec_exited, exec_id=exec_id)
        self._table.added(process)
        return process

    async def start_exec(self, process: Process) -> None:
        """Starts an exec that was registered. One that fails to start stays, with an exit status of 255.

        Raises:
            FailedPreconditionError: it was started before, or the state of the container forbids it.
        """
        await self._require("exec")
        if process.deleted or process.deletion is not None:
            raise NotFoundError(f"exec_id: exec {process.exec_id} is deleted")
        if process.spec is None:
            raise FailedPreconditionError(f"exec_id: exec {process.exec_id} has been started already")
        await self._operations.begin(self._run_added(process)).result()

    def resize(self, process: Process, width: int, height: int) -> None:
        """Sets the window size of a process's terminal, also before it is started.

        Args:
            process: one of its processes.
            width: in columns.
            height: in rows.
        """
        check_window(width, height)
        if process.exit_status is not None:
            raise FailedPreconditionError(f"pid: process {process.pid} is stopped")
        process.io.resize(width, height)

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
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        if self._created is not None:
            self._created.cgroup.forget()
        self._held.close()

    def _process(
        self,
        stdio: StdioPaths,
        spec: Mapping[str, Any],
        policy: Policy,
        on_exit: Callable[[Process], None],
        on_death: Callable[[], None] | None = None,
        *,
        exec_id: str = "",
    ) -> Process:
        io = open_stdio(self._hub, stdio, owner=owner_of(self.bundle.spec, spec))
        return Process(stdio, io, policy, on_exit, on_death, exec_id=exec_id, spec=spec)

    async def _run_create(self, create: Create, init: Process, *, no_pivot: bool) -> Process:
        cgroup = await create.run(init, no_pivot=no_pivot)
        self._held.callback(create.release)
        self._held.callback(self._reaper.claim(cgroup.had, watch=self.bundle.shares_pids))
        start = Start(self.id, init, self.runtime)
        self._created = _Created(init, cgroup, start, Pause(self.id, cgroup, self.runtime))
        _log.info("container %s created with init %d", self.id, init.pid)
        self._table.created(init, cgroup)
        return init

    async def _run_start(self, created: _Created) -> None:
        init, start = created.init, created.start
        try:
            await start.run()
        except ShimError as error:
            if not start.begun and init.exit_status is not None:
                raise FailedPreconditionError(
                    f"start: init of container {self.id} has died with status {init.exit_status}: {error}"
                ) from error
            raise
        finally:
            if start.begun:
                if init.exit_status is None:
                    self.state = State.RUNNING
                _log.info("container %s started", self.id)
                self._table.started(init)

    async def _run_pause(self, created: _Created) -> None:
        await created.pause.pause()
        if self.state is State.RUNNING:
            self.state = State.PAUSED
            _log.info("container %s paused", self.id)
            self._table.publish(EventKind.PAUSED, created.init)

    async def _run_resume(self, created: _Created) -> None:
        try:
            await created.pause.resume()
        except ShimError:
            if created.pause.thawed:
                self._resumed(created)
            raise
        self._resumed(created)

    def _resumed(self, created: _Created) -> None:
        if self.state is State.PAUSED:
            self.state = State.RUNNING
            _log.info("container %s resumed", self.id)
            self._table.publish(EventKind.RESUMED, created.init)

    async def _run_exec(self, process: Process) -> None:
        """Has the runtime start a process, whole or not at all."""
        created = self._existing()
        if process.policy.exec_cgroups:
            process.cgroup = created.cgroup.child(f"exec-{os.getpid()}-{next(_exec_numbers)}")
        run = Exec(self.id, created.init.pid, created.cgroup, self.runtime, self._reaper)
        spec, process.spec = process.spec, None
        await run.run(process, spec or {})
        _log.info("process %d added to container %s", process.pid, self.id)

    async def _run_added(self, process: Process) -> None:
        try:
            await self._run_exec(process)
        except BaseException:
            process.mark_start_failed()
            raise
        self._table.exec_started(process)

    async def _run_delete(self, init: Process) -> int:
        status = await self._delete.init(init, self._existing().cgroup, self._tasks)
        self.deleted = True
        self._table.publish(EventKind.DELETE, init)
        self._table.clear()
        self._held.close()
        _log.info("container %s deleted", self.id)
        return status

    def _init_died(self) -> None:
        """Nothing else of the container may outlive its init, nor may any call wait for it."""
        if self.init is None:
            # Still being created. Its death is part of rolling that back, or is published after the reply.
            return
        reason = FailedPreconditionError(f"container {self.id} has stopped")
        for operation in self._operations:
            # A start completes: a short-lived init is dead before the command that started it returns.
            operation.abort(reason)
        task = asyncio.get_running_loop().create_task(self._kill_rest())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _kill_rest(self) -> None:
        # In a pid namespace of its own the kernel has killed it already.
        try:
            await self._table.kill()
        except ShimError as error:
            _log.warning("cannot kill what is left in container %s after its init: %s", self.id, error)

    def _init_exited(self, init: Process) -> None:
        self.state = State.STOPPED
        _log.info("container %s stopped with status %d", self.id, init.final_status)
        self._settle()

    def _settle(self) -> None:
        """Publishes init's exit, once nothing is under way that could still name a process."""
        if not self._operations:
            self._table.finish()

    def _existing(self) -> _Created:
        if self._created is None or self.init is None:
            raise NotFoundError(f"container {self.id} is not created, or deleted already")
        return self._created

    async def _require(self, call: str) -> None:
        await self._operations.wait_rolled_back()
        exclusive = "deleted" if self._delete.is_deleting_init else self._operations.exclusive
        require(call, self.id, self.state, exclusive)
