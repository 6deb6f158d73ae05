"""The calls of containerd's Task API, as one set of handlers for any transport."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from shimpy.api import runc_options, task, types, well_known
from shimpy.core.container.container import ManagedContainer
from shimpy.core.container.process import Process
from shimpy.core.container.state import State
from shimpy.core.model import StdioPaths
from shimpy.core.runtime.spec import check_id
from shimpy.core.supervisor import Supervisor
from shimpy.errors import FailedPreconditionError, InvalidArgumentError, UnimplementedError
from shimpy.services.task.checkpoint import checkpoint_options
from shimpy.services.task.containers import Containers
from shimpy.services.task.encoding import ZERO_TIME, encode_metrics, read_json, timestamp
from shimpy.services.task.events import Forward
from shimpy.services.task.hooks import TaskHooks
from shimpy.transport.methods import Method, Services
from shimpy.transport.protobuf import encode

# The full names of the service; the second is what containerd 2 and its tools ask for.
NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")

_STATUS = {
    State.CREATED: types.Status.CREATED,
    State.RUNNING: types.Status.RUNNING,
    State.PAUSED: types.Status.PAUSED,
    State.STOPPED: types.Status.STOPPED,
}
_EMPTY = well_known.Empty()
_LARGEST_SIGNAL = 64


class TaskService:
    """The Task API over a supervisor's containers.

    A Create or Exec that is cancelled is rolled back; a Start, Kill or Delete that has begun completes.

    Args:
        supervisor: whose containers they are.
        namespace: containerd's, for what the runtime keeps and for log programs.
        forward: queues an event for containerd; None to forward nothing.
        shutdown: called once Shutdown is answered and no container is left; None where Create and Shutdown
            are another API's.
        hooks: finds the hooks of each container that is created; None: where this shim's configuration is.

    Attributes:
        containers: what the API knows of them.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        namespace: str = "",
        forward: Forward | None = None,
        shutdown: Callable[[], None] | None = None,
        hooks: TaskHooks | None = None,
    ) -> None:
        self._supervisor = supervisor
        # Beside another API its Delete has to end what an exec has started, whichever of the two made it.
        self.containers = Containers(
            supervisor, namespace, forward, hooks or TaskHooks(), exec_cgroups=shutdown is None
        )
        self._shutdown_when_answered = shutdown

    @property
    def idle(self) -> bool:
        """Whether there is no container."""
        return self.containers.is_empty and next(iter(self._supervisor), None) is None

    def services(self) -> Services:
        """Returns the methods by the names of the services that offer them."""
        methods = {
            "State": Method(self.state, task.StateRequest),
            "Create": Method(self.create, task.CreateTaskRequest),
            "Start": Method(self.start, task.StartRequest),
            "Delete": Method(self.delete, task.DeleteRequest),
            "Pids": Method(self.pids, task.PidsRequest),
            "Pause": Method(self.pause, task.PauseRequest),
            "Resume": Method(self.resume, task.ResumeRequest),
            "Checkpoint": Method(self.checkpoint, task.CheckpointTaskRequest),
            "Kill": Method(self.kill, task.KillRequest),
            "Exec": Method(self.exec, task.ExecProcessRequest),
            "ResizePty": Method(self.resize_pty, task.ResizePtyRequest),
            "CloseIO": Method(self.close_io, task.CloseIoRequest),
            "Update": Method(self.update, task.UpdateTaskRequest),
            "Wait": Method(self.wait, task.WaitRequest, repeatable=True),
            "Stats": Method(self.stats, task.StatsRequest),
            "Connect": Method(self.connect, task.ConnectRequest),
            "Shutdown": Method(self.shutdown, task.ShutdownRequest),
        }
        return dict.fromkeys(NAMES, methods)

    async def create(self, request: task.CreateTaskRequest) -> task.CreateTaskResponse:
        """Mounts the root filesystem and creates the container, or neither.

        Raises:
            ShimError: ALREADY_EXISTS, INVALID_ARGUMENT, NOT_FOUND, or what the runtime refused with.
        """
        if self._shutdown_when_answered is None:
            raise UnimplementedError("create: here containerd.shim.v1.Shim/Create creates the container")
        check_id(request.id)
        container = await self.containers.create(request)
        return task.CreateTaskResponse(pid=container.get("").pid)

    async def start(self, request: task.StartRequest) -> task.StartResponse:
        """Starts init, or an exec that Exec has registered.

        Raises:
            ShimError: NOT_FOUND, FAILED_PRECONDITION, or what the runtime refused with.
        """
        container, process = self._find(request.id, request.exec_id)
        if request.exec_id:
            await self.containers.complete(container.execs.start(process))
        else:
            await self.containers.complete(self.containers.start(container))
        return task.StartResponse(pid=process.pid)

    async def delete(self, request: task.DeleteRequest) -> task.DeleteResponse:
        """Forgets a process that has exited or was never started; with init the container.

        Raises:
            ShimError: NOT_FOUND, or FAILED_PRECONDITION for a process that runs.
        """
        container, process = self._find(request.id, request.exec_id)
        status = await self.containers.complete(self._delete(container, process))
        return task.DeleteResponse(process.pid, status, timestamp(process.exited_at))

    async def pids(self, request: task.PidsRequest) -> task.PidsResponse:
        """Lists every process in the container, with the exec ids of those that have one."""
        container = self._supervisor.get(request.id)
        execs = {process.pid: process.exec_id for process in container.processes() if process.exec_id}
        return task.PidsResponse([_process_info(pid, execs.get(pid, "")) for pid in container.cgroup.pids()])

    async def pause(self, request: task.PauseRequest) -> well_known.Empty:
        """Freezes the running container."""
        await self._supervisor.get(request.id).pause()
        return _EMPTY

    async def resume(self, request: task.ResumeRequest) -> well_known.Empty:
        """Thaws the paused container."""
        await self._supervisor.get(request.id).resume()
        return _EMPTY

    async def checkpoint(self, request: task.CheckpointTaskRequest) -> well_known.Empty:
        """Writes the state of the container's processes to files, by CRIU."""
        container = self._supervisor.get(request.id)
        await container.checkpoint(checkpoint_options(request))
        return _EMPTY

    async def kill(self, request: task.KillRequest) -> well_known.Empty:
        """Sends a signal to a process, or with `all` to every process in the container.

        An exec that is being started gets it once it runs.

        Raises:
            ShimError: NOT_FOUND also for a process that has exited, which is how containerd knows that.
        """
        if not 0 <= request.signal <= _LARGEST_SIGNAL:
            raise InvalidArgumentError(f"signal: {request.signal} is not the number of a signal")
        container, process = self._find(request.id, request.exec_id)
        await process.start_settled()
        container.kill(process, request.signal, everything=request.all and not request.exec_id)
        return _EMPTY

    async def exec(self, request: task.ExecProcessRequest) -> well_known.Empty:
        """Registers one more process, for Start to start.

        Raises:
            ShimError: ALREADY_EXISTS, INVALID_ARGUMENT, NOT_FOUND or FAILED_PRECONDITION.
        """
        if not request.exec_id:
            raise InvalidArgumentError("exec_id: is empty")
        check_id(request.exec_id)
        container = self._supervisor.get(request.id)
        spec = {**read_json("spec", request.spec), "terminal": request.terminal}
        if not spec.get("args"):
            raise InvalidArgumentError("spec: has no args, so there is nothing to run")
        stdio = StdioPaths(request.stdin, request.stdout, request.stderr, request.terminal)
        await self.containers.add_exec(container, request.exec_id, spec, stdio)
        return _EMPTY

    async def resize_pty(self, request: task.ResizePtyRequest) -> well_known.Empty:
        """Sets the window size of a process's terminal, also before it is started; none has no effect."""
        _, process = self._find(request.id, request.exec_id)
        if process.stdio.terminal and process.exit_status is None:
            process.resize(request.width, request.height)
        return _EMPTY

    async def close_io(self, request: task.CloseIoRequest) -> well_known.Empty:
        """Stops holding a process's stdin open, so that it ends when its writers leave."""
        _, process = self._find(request.id, request.exec_id)
        if request.stdin:
            process.io.close_stdin()
        return _EMPTY

    async def update(self, request: task.UpdateTaskRequest) -> well_known.Empty:
        """Changes the limits of the container."""
        container = self._supervisor.get(request.id)
        await container.update(read_json("resources", request.resources))
        return _EMPTY

    async def wait(self, request: task.WaitRequest) -> task.WaitResponse:
        """Waits until a process has exited; returns at once if it has."""
        _, process = self._find(request.id, request.exec_id)
        await process.exit_published()
        return task.WaitResponse(process.exit_status or 0, timestamp(process.exited_at))

    async def state(self, request: task.StateRequest) -> task.StateResponse:
        """Tells what a process is doing. Never waits and runs no command."""
        container, process = self._find(request.id, request.exec_id)
        status = types.Status.PAUSING if container.is_pausing else _STATUS[container.state_of(process)]
        stopped = status == types.Status.STOPPED
        return task.StateResponse(
            id=request.exec_id or container.id,
            bundle=container.bundle.path,
            pid=process.pid,
            status=types.Status(status),
            stdin=process.stdio.stdin,
            stdout=process.stdio.stdout,
            stderr=process.stdio.stderr,
            terminal=process.stdio.terminal,
            exit_status=(process.exit_status or 0) if stopped else 0,
            exited_at=timestamp(process.exited_at) if stopped else ZERO_TIME,
            exec_id=request.exec_id,
        )

    async def stats(self, request: task.StatsRequest) -> task.StatsResponse:
        """Reads what the container uses from its cgroups, also when it is stopped.

        Raises:
            ShimError: NOT_FOUND, also when the cgroups are gone.
        """
        container = self._supervisor.get(request.id)
        return task.StatsResponse(encode_metrics(self.containers.read_stats(container)))

    async def connect(self, request: task.ConnectRequest) -> task.ConnectResponse:
        """Tells the pid of the shim and, if there is such a container, of its init."""
        container = self._supervisor.find(request.id)
        pid = 0 if container is None or container.init is None else container.init.pid
        return task.ConnectResponse(shim_pid=os.getpid(), task_pid=pid)

    async def shutdown(self, request: task.ShutdownRequest) -> well_known.Empty:
        """Ends the shim once it has answered, unless a container is left."""
        del request
        if self._shutdown_when_answered is None:
            raise UnimplementedError("shutdown: this shim ends by SIGTERM")
        if self.idle:
            asyncio.get_running_loop().call_soon(self._shutdown_when_answered)
        return _EMPTY

    async def _delete(self, container: ManagedContainer, process: Process) -> int:
        await process.start_settled()
        # From here to where the delete is noted nothing is waited for, so that no start comes in between.
        state = container.state_of(process)
        if state in (State.RUNNING, State.PAUSED):
            name = f"exec {process.exec_id}" if process.exec_id else "init"
            raise FailedPreconditionError(f"delete: {name} is {state.value}; it must be stopped")
        if process.exec_id:
            return await container.delete(process)
        return await self.containers.delete(container, process)

    def _find(self, container_id: str, exec_id: str) -> tuple[ManagedContainer, Process]:
        container = self._supervisor.get(container_id)
        return container, container.get(exec_id)


def _process_info(pid: int, exec_id: str) -> types.ProcessInfo:
    if not exec_id:
        return types.ProcessInfo(pid=pid)
    details = encode(runc_options.ProcessDetails(exec_id))
    return types.ProcessInfo(pid, well_known.Any("containerd.runc.v1.ProcessDetails", details))
