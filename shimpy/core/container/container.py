"""One container: the states it is in and what each allows."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from shimpy.core.cgroup import Cgroup
from shimpy.core.container.create import Creation
from shimpy.core.container.exec import Execution
from shimpy.core.container.operation import Operation, Operations
from shimpy.core.container.pause import Freezing
from shimpy.core.container.process import Process
from shimpy.core.container.process_table import Processes
from shimpy.core.container.start import Starting
from shimpy.core.container.state import State, require
from shimpy.core.events import Event
from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runtime
from shimpy.core.runtime.spec import (
    ExecSpec,
    check_exec,
    check_terminal,
    process_of,
    read_bundle,
    shares_pids,
)
from shimpy.core.runtime.state import delete_state
from shimpy.core.stdio import ProcessIO, StdioHub, check_window, open_stdio, owner_of
from shimpy.errors import FailedPreconditionError, NotFoundError, ShimError

logger = logging.getLogger(__name__)


class Container:
    """A container of the runtime: its init process and any number of exec'd ones.

    Whoever serves it says what to do; the container knows no protocol. Each method is all or
    nothing: when it raises, or is cancelled, nothing of what it began is left.

    Args:
        container_id: its id, as `spec.check_id` accepts it.
        bundle: the absolute path of its bundle.
        runtime: whose commands run it.
        reaper: who waits for its processes.
        hub: where its FIFOs are watched.
        publish: called with each Event, in order; see `processes.Processes`.

    Raises:
        ShimError: the bundle is not one; see `spec.read_bundle`.

    Attributes:
        id: its id.
        bundle: its bundle.
        state: what it is doing.
        deleted: True once init is deleted, and with it the container.
    """

    def __init__(
        self,
        container_id: str,
        bundle: str,
        *,
        runtime: Runtime,
        reaper: Reaper,
        hub: StdioHub,
        publish: Callable[[Event], None],
    ) -> None:
        self.id = container_id
        self.bundle = bundle
        self.state = State.CREATED
        self.deleted = False
        self._spec = read_bundle(bundle)
        self._runtime = runtime
        self._reaper = reaper
        self._hub = hub
        self._processes = Processes(container_id, publish, self._settle)
        self._cgroup = Cgroup()
        self._held = ExitStack()
        self._exec_names = (f"exec-{os.getpid()}-{number}" for number in itertools.count(1))
        self._operations = Operations(self._settle)
        self._creation: Operation[int] | None = None
        self._deleting = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def init_pid(self) -> int:
        """The pid of its init process, 0 before it is created."""
        return 0 if self._processes.init is None else self._processes.init.pid

    @property
    def begun(self) -> bool:
        """True once a create of it has got as far as the runtime."""
        return self._creation is not None

    @property
    def gone(self) -> bool:
        """True once nothing of it is left: it is deleted, or its create failed."""
        return self.deleted or (self._creation is not None and self._creation.over and self.init_pid == 0)

    @property
    def undoing(self) -> bool:
        """True while a create that was called off is being undone."""
        return self._creation is not None and self._creation.ending and not self._creation.over

    async def undone(self) -> None:
        """Waits until a create that was called off has been undone."""
        if self._creation is not None:
            await self._creation.settled()

    def processes(self) -> list[tuple[int, State]]:
        """Returns pid and state of its processes, init first, then the execs in order of start."""
        return self._processes.states(self.state)

    async def create(self, *, terminal: bool, stdin: str, stdout: str, stderr: str, no_pivot: bool) -> int:
        """Creates it, up to where `start` lets its process run.

        Args:
            terminal: init gets a terminal; the bundle has to say the same.
            stdin: an existing FIFO, regular file or character device; "" is /dev/null.
            stdout: likewise.
            stderr: likewise; not used with a terminal.
            no_pivot: do not use pivot_root(2), for a rootfs on a ramdisk.

        Returns:
            The pid of init.
        """
        check_terminal(self._spec, terminal=terminal)
        creation = Creation(self.id, self.bundle, self._spec, self._runtime, self._reaper)
        owner = owner_of(self._spec, self._spec["process"])
        try:
            io = open_stdio(
                self._hub, terminal=terminal, stdin=stdin, stdout=stdout, stderr=stderr, owner=owner
            )
        except BaseException:
            creation.release()
            raise
        init = Process(io, None, self._init_exited, self._init_died)
        self._creation = self._operations.begin(self._create(creation, init, no_pivot=no_pivot))
        return await self._creation.result()

    async def start(self) -> None:
        """Lets the created container's process run."""
        await self._require("start")
        await self._operations.begin(self._start(), "started").result()

    async def pause(self) -> None:
        """Freezes every process of the running container."""
        await self._require("pause")
        await self._operations.begin(self._pause(), "paused").result()

    async def resume(self) -> None:
        """Thaws every process of the paused container."""
        await self._require("resume")
        await self._operations.begin(self._resume(), "resumed").result()

    async def exec(self, asked: ExecSpec, *, stdin: str, stdout: str, stderr: str) -> int:
        """Starts one more process in the container; any number may be starting at a time.

        Args:
            asked: what to run.
            stdin: as for `create`.
            stdout: likewise.
            stderr: likewise.

        Returns:
            The pid of the process.
        """
        check_exec(asked)
        await self._require("exec")
        owner = owner_of(self._spec, process_of(self._spec, asked))
        io = open_stdio(
            self._hub, terminal=asked.terminal, stdin=stdin, stdout=stdout, stderr=stderr, owner=owner
        )
        return await self._operations.begin(self._exec(asked, io)).result()

    def resize(self, pid: int, width: int, height: int) -> None:
        """Sets the window size of a process's terminal, also before it is started.

        Args:
            pid: the process.
            width: in columns.
            height: in rows.
        """
        check_window(width, height)
        process = self._processes.find(pid)
        if process.exit_status is not None:
            raise FailedPreconditionError(f"pid: process {pid} is stopped")
        process.io.resize(width, height)

    async def delete(self, pid: int) -> int:
        """Kills a process if it still runs, with everything that it started, and forgets it.

        Deleting init deletes the container. Concurrent calls for one pid share one answer.

        Returns:
            The exit status: the exit code, or 128 + the number of the signal.
        """
        process = self._processes.find(pid)
        while process.deletion is not None and process.deletion.ending:
            await process.deletion.settled()
            if self._processes.find(pid) is not process:
                raise NotFoundError(f"pid: process {pid} is deleted already, and its pid another's")
        if process.deletion is None:
            work = self._delete if process is self._processes.init else self._delete_exec
            process.deletion = Operation(work(process), partial(_deletion_over, process))
        return await process.deletion.result()

    async def abandon(self, reason: ShimError) -> None:
        """Calls off whatever is under way, and waits until it is rolled back; processes go on."""
        await self._operations.call_off(reason)
        for process in list(self._processes):
            if process.deletion is not None:
                process.deletion.abort(reason)
                await process.deletion.settled()
            process.io.close()
        self._processes.close()
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        self._cgroup.forget()
        self._held.close()

    # What the calls do, each as an operation of its own.

    async def _create(self, creation: Creation, init: Process, *, no_pivot: bool) -> int:
        self._cgroup = await creation.run(init, no_pivot=no_pivot)
        self._held.callback(creation.release)
        self._held.callback(self._reaper.claim(self._cgroup.had, watch=shares_pids(self._spec)))
        self._starting = Starting(self.id, init, self._runtime)
        self._freezing = Freezing(self.id, self._cgroup, self._runtime)
        logger.info("container %s created with init %d", self.id, init.pid)
        self._processes.created(init, self._cgroup)
        return init.pid

    async def _start(self) -> None:
        init = self._init()
        starting = self._starting
        try:
            await starting.run()
        except ShimError as error:
            if not starting.begun and init.exit_status is not None:
                raise FailedPreconditionError(
                    f"start: init of container {self.id} has died with status {init.exit_status}: {error}"
                ) from error
            raise
        finally:
            if starting.begun:
                if init.exit_status is None:
                    self.state = State.RUNNING
                logger.info("container %s started", self.id)
                self._processes.started(init)

    async def _pause(self) -> None:
        await self._freezing.pause()
        if self.state is State.RUNNING:
            self.state = State.PAUSED
            logger.info("container %s paused", self.id)

    async def _resume(self) -> None:
        try:
            await self._freezing.resume()
        except ShimError:
            if self._freezing.thawed:
                self._resumed()
            raise
        self._resumed()

    def _resumed(self) -> None:
        if self.state is State.PAUSED:
            self.state = State.RUNNING
            logger.info("container %s resumed", self.id)

    async def _exec(self, asked: ExecSpec, io: ProcessIO) -> int:
        execution = Execution(self.id, self.init_pid, self._cgroup, self._runtime, self._reaper)
        process = Process(io, self._cgroup.child(next(self._exec_names)), self._processes.exec_exited)
        await execution.run(process, process_of(self._spec, asked))
        logger.info("process %d added to container %s", process.pid, self.id)
        self._processes.added(process)
        return process.pid

    async def _delete_exec(self, process: Process) -> int:
        await process.kill()
        await process.told()
        await process.io.drain()
        self._processes.remove(process)
        return process.final_status

    async def _delete(self, init: Process) -> int:
        self._deleting = True
        try:
            await self._operations.call_off(FailedPreconditionError(f"container {self.id} is being deleted"))
            await self._processes.kill()
            if self._tasks:
                # One may be about to thaw again what it has frozen, of which the runtime must see nothing.
                await asyncio.wait(self._tasks)
            await init.told()
            await asyncio.gather(*(process.io.drain() for process in self._processes))
            # A cgroup that was frozen when init was dead already stays so, and the runtime would not
            # delete what it takes to be paused.
            self._cgroup.thaw()
            await self._cgroup.prune()
            await delete_state(self._runtime, self.id)
            self._cgroup.forget()
        finally:
            self._deleting = False
        self.deleted = True
        self._processes.clear()
        self._held.close()
        logger.info("container %s deleted", self.id)
        return init.final_status

    # What happens to it.

    def _init_died(self) -> None:
        """Init is dead: nothing else of the container may outlive it, nor any call wait for it."""
        if self._processes.init is None:
            # Still being created. Its death is part of undoing that, or is told after the reply.
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
            await self._processes.kill()
        except ShimError as error:
            logger.warning("cannot kill what is left in container %s after its init: %s", self.id, error)

    def _init_exited(self, init: Process) -> None:
        self.state = State.STOPPED
        logger.info("container %s stopped with status %d", self.id, init.final_status)
        self._settle()

    def _settle(self) -> None:
        """Lets init's exit be told, once nothing is under way that could still name a process."""
        if not self._operations:
            self._processes.finish()

    def _init(self) -> Process:
        if self._processes.init is None:
            raise NotFoundError(f"container {self.id} is not created, or deleted already")
        return self._processes.init

    async def _require(self, call: str) -> None:
        await self._operations.rolled_back()
        change = "deleted" if self._deleting else self._operations.change
        require(call, self.id, self.state, change)


def _deletion_over(process: Process, _operation: Operation[int]) -> None:
    process.deletion = None
