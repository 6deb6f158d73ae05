"""The nine calls of containerd.shim.v1.Shim: what came over the wire, checked and handed to the container."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from betterproto.lib.google.protobuf import Empty
from grpclib.const import Handler

from shimpy import api
from shimpy.core import tempdirs
from shimpy.core.container.create import CreateOptions
from shimpy.core.container.state import State
from shimpy.core.model import ContainerEvent, Policy, StdioPaths
from shimpy.core.runtime import Runc
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.spec import check_id
from shimpy.core.supervisor import Supervisor
from shimpy.errors import AlreadyExistsError, NotFoundError
from shimpy.services.shim_v1.events import ShimEvents, ShimEventStream
from shimpy.services.shim_v1.exec_spec import exec_spec
from shimpy.services.shim_v1.processes import ShimProcesses
from shimpy.services.shim_v1.repeated_calls import RepeatedCalls
from shimpy.transport.grpc import wrap
from shimpy.transport.grpc.metadata import after

if TYPE_CHECKING:
    from shimpy.core.hooks.interface import Hooks
    from shimpy.core.journal import Journal

# Mapped by name, so that the core's enums do not depend on the proto's numbers.
_STATES = {state: api.State.from_string(state.name) for state in State}


class Shim(api.ShimBase):
    """The service: one container at a time, init and any number of exec'd processes.

    Serve it with a grpclib server, or in process with `grpclib.testing.ChannelFor`. It belongs to
    the event loop in which it is first used, and is ended by `aclose` or `async with`. While it is
    in use the process is a child subreaper; see `reaper.Reaper` for all that it changes.

    Every call takes full effect or, when it fails, is cancelled or its deadline passes, none.

    Args:
        runtime: the OCI runtime for requests that name none: a name on PATH or an absolute path.
        root: the directory in which the runtime keeps its state (its --root); None for its default.
        sweep_orphans: reap every child of this process that has no other waiter. Only for a process
            that does nothing else, such as `python -m shimpy`.
        hooks: one object with hooks, or several, in the order in which they are asked.

    Attributes:
        supervisor: has the container, for other APIs beside this one.
    """

    def __init__(
        self,
        *,
        runtime: str = "runc",
        root: str | None = None,
        sweep_orphans: bool = False,
        hooks: Hooks | Iterable[Hooks] = (),
    ) -> None:
        self._default_runtime = runtime
        self._root = root
        self._policy = Policy()
        self.supervisor = Supervisor(sweep_orphans=sweep_orphans, hooks=hooks)
        self.supervisor.observe(self._observe)
        self._events = ShimEvents()
        self._processes = ShimProcesses(self.supervisor)
        self._repeated = RepeatedCalls()

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __mapping__(self) -> dict[str, Handler]:
        """Returns the handlers of the calls, as grpclib serves them."""
        mapping = self._repeated.wrap(super().__mapping__())
        return wrap(mapping, streams={"/containerd.shim.v1.Shim/Events": self.subscribe_events})

    def open(self) -> None:
        """Becomes a subreaper, so that nothing is lost before the first Create. Idempotent.

        What shims that were killed have left of temporary files is removed.

        Raises:
            FailedPreconditionError: the event loop is not asyncio's own, or SIGCHLD is ignored and
                this is not the main thread.
        """
        self.supervisor.open()
        tempdirs.remove_abandoned()

    async def check_runtime(self) -> None:
        """Warns in the log when the default runtime is older than the fixes of its known escapes."""
        from shimpy.core.runtime.advisories import warn_of_known_escapes

        await warn_of_known_escapes(Runc(self._default_runtime, self._root, self.supervisor.reaper))

    async def keep_journal(self, journal: Journal, fds: dict[str, int]) -> None:
        """Has all that happens written down from now on, and takes up what the shim before this one had.

        Args:
            journal: that of this shim's socket.
            fds: what was stored for this shim, by name.
        """
        self.supervisor.journal = self._repeated.journal = journal
        self._events.take_up(journal)
        journal.begin()
        take_up = None
        if fds or journal.state.containers or journal.state.intents:
            from shimpy.core.recovery.take_up import TakeUp

            take_up = TakeUp(self.supervisor, journal, fds)
            await take_up.run()
        self._processes.take_up(journal.state.tombstones)
        if take_up is not None:
            take_up.announce()

    def close_events(self) -> None:
        """Ends every Events stream once it has delivered what was published."""
        self._events.close()

    async def aclose(self) -> None:
        """Ends the service; a container that runs is left running. Idempotent.

        Calls under way are rolled back, Events streams end with OK after what was published, and
        what was changed in the process is put back.
        """
        await self.supervisor.aclose()
        self._events.close()

    async def create(self, create_request: api.CreateRequest) -> api.CreateResponse:
        """Creates the container, up to where Start lets its process run; publishes CREATE.

        In a user namespace the FIFOs that the process writes to are made to belong to its user, as
        the bundle maps it, so that it may open /dev/stdout anew; so they stay. Their mode does too:
        of a FIFO of mode 0600 root remains a reader, others are not any more. The same goes for Exec.

        Raises:
            ShimError: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, or what the runtime refused with.
        """
        request = create_request
        self.supervisor.check_open()
        check_id(request.id)
        runtime = Runc(request.runtime or self._default_runtime, self._root, self.supervisor.reaper)
        while (held := next(iter(self.supervisor), None)) is not None:
            if not held.is_rolling_back:
                raise AlreadyExistsError(f"id: this shim has container {held.id} already; delete it first")
            await held.wait_rolled_back()
        stdio = StdioPaths(request.stdin, request.stdout, request.stderr, request.terminal)
        container = await self.supervisor.create(
            request.id,
            Bundle.read(request.bundle),
            runtime,
            stdio,
            policy=self._policy,
            options=CreateOptions(no_pivot=request.no_pivot),
        )
        return api.CreateResponse(pid=container.get("").pid)

    async def start(self, start_request: api.StartRequest) -> Empty:
        """Lets the container's process run; publishes START.

        Raises:
            ShimError: FAILED_PRECONDITION unless the container is created and not yet started.
        """
        await self._processes.existing("start").start()
        return Empty()

    async def delete(self, delete_request: api.DeleteRequest) -> api.DeleteResponse:
        """Kills a process that still runs, with all that it started, and forgets it; init: the container.

        Raises:
            ShimError: INVALID_ARGUMENT for pid 0, NOT_FOUND for one that is not ours.
        """
        try:
            container, process = self._processes.find(delete_request.pid)
        except NotFoundError:
            if (known := self._processes.deleted_before(delete_request.pid)) is None:
                raise
            return api.DeleteResponse(exit_status=known)
        status = await container.delete(process)
        self._processes.remove(process)
        return api.DeleteResponse(exit_status=status)

    async def exec(self, exec_request: api.ExecRequest) -> api.ExecResponse:
        """Starts one more process in the container; publishes EXEC_ADDED.

        Raises:
            ShimError: INVALID_ARGUMENT, FAILED_PRECONDITION, NOT_FOUND, PERMISSION_DENIED, or what
                the runtime refused with.
        """
        request = exec_request
        container = self._processes.existing("exec")
        asked = exec_spec(request)
        process = await container.execs.run(
            container.bundle.process_for(asked),
            StdioPaths(request.stdin, request.stdout, request.stderr, request.terminal),
            policy=self._policy,
            name=self._processes.name,
        )
        return api.ExecResponse(pid=process.pid)

    async def pty(self, pty_request: api.PtyRequest) -> Empty:
        """Sets the window size of a process's terminal, also before it is started.

        Raises:
            ShimError: INVALID_ARGUMENT, NOT_FOUND, or FAILED_PRECONDITION without a terminal.
        """
        _, process = self._processes.find(pty_request.pid)
        process.resize(pty_request.width, pty_request.height)
        return Empty()

    async def events(self, events_request: api.EventsRequest) -> AsyncIterator[api.Event]:
        """Yields what happens from now on, and to the first that asks also what it missed.

        Raises:
            ShimError: RESOURCE_EXHAUSTED when more than 4,096 events were left unread.
        """
        stream = self.subscribe_events(events_request)
        try:
            async for event in stream:
                yield event
        finally:
            await stream.aclose()

    def subscribe_events(self, events_request: api.EventsRequest) -> ShimEventStream:
        """Subscribes at once, and returns the iterator of `events`; it has to be closed."""
        del events_request
        return self._events.follow(after())

    async def state(self, state_request: api.StateRequest) -> api.StateResponse:
        """Tells what there is; an empty reply before Create. Never waits and never fails."""
        container = self._processes.live()
        if container is None:
            return api.StateResponse()
        return api.StateResponse(
            id=container.id,
            bundle=container.bundle.path,
            init_pid=container.get("").pid,
            processes=[
                api.Process(pid=process.pid, state=_STATES[container.state_of(process)])
                for process in container.processes()
                if process.pid
            ],
        )

    async def pause(self, pause_request: api.PauseRequest) -> Empty:
        """Freezes the running container.

        Raises:
            ShimError: FAILED_PRECONDITION unless it is running.
        """
        await self._processes.existing("pause").pause()
        return Empty()

    async def resume(self, resume_request: api.ResumeRequest) -> Empty:
        """Thaws the paused container.

        Raises:
            ShimError: FAILED_PRECONDITION unless it is paused.
        """
        await self._processes.existing("resume").resume()
        return Empty()

    def _observe(self, event: ContainerEvent) -> None:
        self._processes.observe(event)
        self._events.publish_event(event)
