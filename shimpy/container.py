"""One container: the states it is in, what each allows, and the order of what is told of it."""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .cgroup import Cgroup, Leftovers, OomWatch
from .errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ShimError,
)
from .events import Event, EventType
from .operation import Operation
from .process import Process
from .reaper import Reaper
from .runtime import Runtime
from .spec import ExecSpec, check_exec, check_terminal, process_of, read_bundle
from .stdio import StdioHub, open_stdio

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_EXITED = 4096
"""How many exited execs stay listed until they are deleted; the oldest gives way."""

START_GRACE = 1.0
"""Seconds that a start command may take beyond the life of the process that it started."""

UNDO_TIMEOUT = 5.0
"""Seconds for the runtime to remove what a failed create has left."""

MAX_WINDOW = 65535
"""The most columns or rows that a terminal's struct winsize holds (ioctl_tty(2))."""


class State(enum.Enum):
    """What a container, or a process of it, is doing."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


# What each state allows; everything else is refused by naming the state.
_ALLOWED: dict[str, tuple[State, ...]] = {
    "start": (State.CREATED,),
    "exec": (State.CREATED, State.RUNNING),
    "pause": (State.RUNNING,),
    "resume": (State.PAUSED,),
}


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
        publish: called with each Event, in order.

    Raises:
        ShimError: the bundle is not one; see `spec.read_bundle`.
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
        self.spec = read_bundle(bundle)
        self._runtime = runtime
        self._reaper = reaper
        self._hub = hub
        self._publish_event = publish
        self._state = State.CREATED
        self._changing: tuple[str, Operation[None]] | None = None
        self._deleting = False
        self._gone = False
        self._init: Process | None = None
        self._execs: dict[int, Process] = {}
        self._cgroup: Cgroup | None = None
        self._oom: OomWatch | None = None
        self._names = itertools.count(1)
        self._under_way: set[Operation[Any]] = set()
        self._alive = 0
        self._in_doubt = False
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what it is ---------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the container is doing."""
        return self._state

    @property
    def init_pid(self) -> int:
        """The pid of its init process, 0 before it is created."""
        return 0 if self._init is None else self._init.pid

    def processes(self) -> list[tuple[int, State]]:
        """Returns pid and state of its processes, init first, then the execs in order of start."""
        if self._init is None:
            return []
        living = State.RUNNING if self._state is State.CREATED else self._state
        execs = [
            (pid, living if process.exit_status is None else State.STOPPED)
            for pid, process in self._execs.items()
        ]
        return [(self._init.pid, self._state), *execs]

    # -- what can be done with it -------------------------------------------------------------

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
        check_terminal(self.spec, terminal=terminal)
        if self._has_state():
            raise AlreadyExistsError(
                f"id: {self._runtime.name} has a container {self.id} already; delete it or take another id"
            )
        return await self._begin(self._create(terminal, stdin, stdout, stderr, no_pivot)).result()

    async def start(self) -> None:
        """Lets the created container's process run."""
        self._require("start")
        await self._change("started", self._start())

    async def pause(self) -> None:
        """Freezes every process of the running container."""
        self._require("pause")
        await self._change("paused", self._pause())

    async def resume(self) -> None:
        """Thaws every process of the paused container."""
        self._require("resume")
        await self._change("resumed", self._resume())

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
        self._require("exec")
        return await self._begin(self._exec(asked, stdin, stdout, stderr)).result()

    def resize(self, pid: int, width: int, height: int) -> None:
        """Sets the window size of a process's terminal, also before it is started.

        Args:
            pid: the process.
            width: in columns.
            height: in rows.
        """
        for name, value in (("width", width), ("height", height)):
            if not 0 <= value <= MAX_WINDOW:
                raise InvalidArgumentError(
                    f"{name}: {value} is over {MAX_WINDOW}, the most a terminal can have"
                )
        process = self._find(pid)
        if process.exit_status is not None:
            raise FailedPreconditionError(f"pid: process {pid} is stopped")
        process.io.resize(width, height)

    async def delete(self, pid: int) -> int:
        """Kills a process if it still runs, with everything that it started, and forgets it.

        Deleting init deletes the container. Concurrent calls for one pid share one answer.

        Returns:
            The exit status: the exit code, or 128 + the number of the signal.
        """
        process = self._find(pid)
        if process.deletion is None or process.deletion.ending:
            if process.deletion is not None:
                await process.deletion.settled()
                process = self._find(pid)
            work = self._delete() if process is self._init else self._delete_exec(process)
            process.deletion = Operation(work)
        return await process.deletion.result()

    @property
    def deleted(self) -> bool:
        """True once init is deleted, and with it the container."""
        return self._gone

    @property
    def undoing(self) -> bool:
        """True while a create that was called off is being undone."""
        return self._init is None and any(operation.ending for operation in self._under_way)

    async def abandon(self, reason: ShimError) -> None:
        """Calls off whatever is under way, and waits until it is rolled back; processes go on."""
        await self._call_off(reason)
        if self._oom is not None:
            self._oom.close()
        for process in [*self._execs.values(), *([self._init] if self._init else [])]:
            if process.deletion is not None:
                process.deletion.abort(reason)
                await process.deletion.settled()
            process.io.close()

    # -- create -------------------------------------------------------------------------------

    async def _create(self, terminal: bool, stdin: str, stdout: str, stderr: str, no_pivot: bool) -> int:
        io = open_stdio(self._hub, terminal=terminal, stdin=stdin, stdout=stdout, stderr=stderr)
        init = Process(io, None, self._init_exited, self._init_died)
        leftovers = Leftovers.before(self.spec, self.id)
        try:
            with self._reaper.window():
                pid = await self._runtime.create(
                    self.id, self.bundle, io.fds, console_socket=io.console_socket, no_pivot=no_pivot
                )
                init.track(self._reaper, pid)
            self._cgroup = Cgroup.of(pid)
            self._oom = self._cgroup.watch_oom(self._oom_struck)
            await io.attach()
        except BaseException as error:
            await self._undo_create(init, leftovers, refused=isinstance(error, AlreadyExistsError))
            raise
        self._init = init
        logger.info("container %s created with init %d", self.id, pid)
        self._publish(EventType.CREATE, pid)
        init.announce()
        return pid

    async def _undo_create(self, init: Process, leftovers: Leftovers, *, refused: bool) -> None:
        """Removes what a create that failed or was killed half way has made, and only that."""
        if self._oom is not None:
            self._oom.close()
        if self._cgroup is not None:
            await self._cgroup.kill()
        await init.kill()
        if not refused:
            try:
                async with asyncio.timeout(UNDO_TIMEOUT):
                    await self._undo_state()
            except (ShimError, TimeoutError) as error:
                logger.warning("cannot remove what is left of container %s: %s", self.id, error)
        await leftovers.remove()
        init.release()

    async def _undo_state(self) -> None:
        """Removes the runtime's state of a container of which it is not known how far it came."""
        try:
            pid = (await self._runtime.state(self.id)).get("pid", 0)
        except NotFoundError:
            # A command that was killed early leaves a folder that the runtime itself does not see.
            if self._has_state():
                await self._runtime.delete(self.id, force=True)
            return
        if pid and not self._reaper.is_child(pid):
            logger.warning("container %s is somebody else's; it is left alone", self.id)
            return
        await self._runtime.delete(self.id, force=True)
        self._reaper.collect([pid])

    def _has_state(self) -> bool:
        directory = self._runtime.state_directory(self.id)
        return directory is not None and os.path.lexists(directory)

    # -- start, pause, resume -----------------------------------------------------------------

    async def _start(self) -> None:
        init = self._created_init()
        if self._in_doubt and self._runs():
            self._started(init)
            return
        init.hold()
        try:
            await self._runtime.start(self.id)
        except asyncio.CancelledError:
            # The command may have done its work before it was killed.
            if self._runs():
                self._started(init)
            else:
                self._in_doubt = True
                init.announce()
            raise
        except ShimError as error:
            init.announce()
            if init.exit_status is not None:
                raise FailedPreconditionError(
                    f"start: init of container {self.id} has died with status {init.exit_status}: {error}"
                ) from error
            raise
        self._started(init)

    def _started(self, init: Process) -> None:
        self._in_doubt = False
        self._state = State.RUNNING
        logger.info("container %s started", self.id)
        self._publish(EventType.START, init.pid)
        init.announce()

    def _runs(self) -> bool:
        """Whether init has left the runtime's own program for the container's."""
        try:
            with open(f"/proc/{self.init_pid}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
        except OSError:
            return False
        # A zombie's is empty; whether it had begun is not to be known any more.
        return len(arguments) > 1 and arguments[1] != b"init"

    async def _pause(self) -> None:
        try:
            await self._runtime.pause(self.id)
        except BaseException:
            # All or nothing: a half frozen container would look RUNNING and answer nothing.
            if self._cgroup is not None:
                self._cgroup.thaw()
            raise
        if self._state is State.RUNNING:
            self._state = State.PAUSED
            logger.info("container %s paused", self.id)

    async def _resume(self) -> None:
        try:
            await self._runtime.resume(self.id)
        except BaseException:
            if self._cgroup is None or self._cgroup.frozen():
                raise
            self._resumed()
            raise
        self._resumed()

    def _resumed(self) -> None:
        if self._state is State.PAUSED:
            self._state = State.RUNNING
            logger.info("container %s resumed", self.id)

    # -- exec ---------------------------------------------------------------------------------

    async def _exec(self, asked: ExecSpec, stdin: str, stdout: str, stderr: str) -> int:
        io = open_stdio(self._hub, terminal=asked.terminal, stdin=stdin, stdout=stdout, stderr=stderr)
        group = (
            None if self._cgroup is None else self._cgroup.child(f"exec-{os.getpid()}-{next(self._names)}")
        )
        process = Process(io, group, self._exec_exited)
        try:
            with self._reaper.window():
                pid = await self._runtime.exec(
                    self.id,
                    process_of(self.spec, asked),
                    io.fds,
                    console_socket=io.console_socket,
                    extra=() if group is None else group.runtime_args,
                )
                process.track(self._reaper, pid)
            await io.attach()
        except BaseException:
            await process.kill()
            process.release()
            raise
        self._replace(pid)
        self._execs[pid] = process
        self._alive += 1
        logger.info("process %d added to container %s", pid, self.id)
        self._publish(EventType.EXEC_ADDED, pid)
        process.announce()
        return pid

    def _replace(self, pid: int) -> None:
        """Lets go of the record of a dead process whose pid the kernel has given out again."""
        former = self._execs.pop(pid, None)
        if former is not None:
            former.release()

    # -- delete -------------------------------------------------------------------------------

    async def _delete_exec(self, process: Process) -> int:
        await process.kill()
        await process.told()
        await process.io.drain()
        process.release()
        if self._execs.get(process.pid) is process:
            del self._execs[process.pid]
        return _status(process)

    async def _delete(self) -> int:
        init = self._created_init()
        self._deleting = True
        try:
            await self._call_off(FailedPreconditionError(f"container {self.id} is being deleted"))
            await self._kill_all()
            await init.told()
            records = [*self._execs.values(), init]
            await asyncio.gather(*(process.io.drain() for process in records))
            await self._delete_state()
        finally:
            self._deleting = False
        for process in records:
            process.release()
        self._execs.clear()
        self._gone = True
        logger.info("container %s deleted", self.id)
        return _status(init)

    async def _delete_state(self) -> None:
        try:
            await self._runtime.delete(self.id)
        except NotFoundError:
            # Somebody has deleted it by the runtime's own command; then there is nothing to do.
            if self._has_state() or self._runtime.state_directory(self.id) is None:
                raise

    async def _kill_all(self) -> None:
        init = self._created_init()
        living = [process for process in self._execs.values() if process.exit_status is None]
        for process in [init, *living]:
            if process.child is not None:
                process.child.kill()
        if self._cgroup is not None:
            await self._cgroup.kill()

    # -- exits, and the order in which they are told -------------------------------------------

    def _exec_exited(self, process: Process) -> None:
        self._alive -= 1
        self._tell_exit(process)
        if process.group is not None and process.group.remove():
            process.group = None
        if len(self._execs) - self._alive > MAX_EXITED:
            oldest = next(one for one in self._execs.values() if one.exit_status is not None)
            del self._execs[oldest.pid]
            oldest.release()
        self._settle()

    def _init_died(self) -> None:
        """Init is dead: nothing else of the container may outlive it, nor any call wait for it."""
        reason = FailedPreconditionError(f"container {self.id} has stopped")
        for operation in self._under_way:
            if self._changing is not None and self._changing == ("started", operation):
                # A short-lived init is dead before the command that started it has returned.
                asyncio.get_running_loop().call_later(START_GRACE, operation.abort, reason)
            else:
                operation.abort(reason)
        # In a pid namespace of its own the kernel has killed the rest already.
        if self._init is not None and (
            self._alive or (self._cgroup is not None and self._cgroup.populated())
        ):
            self._background(self._kill_all())

    def _init_exited(self, init: Process) -> None:
        del init
        self._state = State.STOPPED
        self._settle()

    def _settle(self) -> None:
        """Tells init's exit once it is the last of the container."""
        init = self._init
        if self._state is State.STOPPED and init is not None and not self._alive and not self._under_way:
            self._tell_exit(init)
            if self._oom is not None:
                self._oom.close()

    def _tell_exit(self, process: Process) -> None:
        if self._oom is not None:
            self._oom.poll()
        self._publish(EventType.EXIT, process.pid, _status(process))
        process.mark_told()

    def _oom_struck(self, count: int) -> None:
        for _ in range(count):
            self._publish(EventType.OOM, self.init_pid)

    def _publish(self, type: EventType, pid: int, exit_status: int = 0) -> None:
        self._publish_event(Event(self.id, type, pid, exit_status))

    # -- helpers ------------------------------------------------------------------------------

    def _require(self, call: str) -> None:
        changing = self._changing[0] if self._changing else None
        if self._deleting:
            changing = "deleted"
        if changing is not None and not (call == "exec" and changing == "started"):
            raise FailedPreconditionError(f"{call}: container {self.id} is just being {changing}")
        allowed = _ALLOWED[call]
        if self._state not in allowed:
            needed = " or ".join(state.value for state in allowed)
            raise FailedPreconditionError(
                f"{call}: container {self.id} is {self._state.value}; it has to be {needed}"
            )

    def _find(self, pid: int) -> Process:
        if pid == 0:
            raise InvalidArgumentError("pid: is 0; it names the process, as Create, Exec or State told it")
        if self._init is not None and pid == self._init.pid:
            return self._init
        process = self._execs.get(pid)
        if process is None:
            raise NotFoundError(f"pid: container {self.id} has no process {pid}, or it is deleted already")
        return process

    def _created_init(self) -> Process:
        if self._init is None:
            raise NotFoundError(f"container {self.id} is not created, or deleted already")
        return self._init

    async def _change(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        operation = self._begin(work)
        self._changing = (what, operation)
        await operation.result()

    def _begin(self, work: Coroutine[Any, Any, T]) -> Operation[T]:
        operation = Operation(work, self._ended)
        self._under_way.add(operation)
        return operation

    def _ended(self, operation: Operation[Any]) -> None:
        self._under_way.discard(operation)
        if self._changing is not None and self._changing[1] is operation:
            self._changing = None
        self._settle()

    async def _call_off(self, reason: ShimError) -> None:
        operations = list(self._under_way)
        for operation in operations:
            operation.abort(reason)
        for operation in operations:
            await operation.settled()

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _status(process: Process) -> int:
    if process.exit_status is None:
        raise RuntimeError(f"process {process.pid} has not exited")
    return process.exit_status
