"""The nine calls of containerd.shim.v1.Shim: what came over the wire, checked and handed to the container."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import betterproto
from betterproto.lib.google.protobuf import Empty
from grpclib.const import Handler

from shimpy import api
from shimpy.core import tempdirs
from shimpy.core.container.container import Container
from shimpy.core.container.state import State
from shimpy.core.events import Broadcast, Event, EventType, Subscription
from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runc
from shimpy.core.runtime.spec import ExecSpec, Rlimit, User, check_id
from shimpy.core.stdio import StdioHub
from shimpy.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from shimpy.transport.grpc import guarded

# By name: the proto's numbers are the door's own affair.
_STATES = {state: api.State.from_string(state.name) for state in State}
_EVENT_TYPES = {kind: api.EventType.from_string(kind.name) for kind in EventType}


class Shim(api.ShimBase):
    """The service: one container at a time, init and any number of exec'd processes.

    Serve it with a grpclib server, or in process with `grpclib.testing.ChannelFor`. It belongs to
    the event loop in which it is first used, and is ended by `aclose` or `async with`. While it is
    in use the process is a child subreaper; see `reaper.Reaper` for all that it changes.

    Every call takes full effect or, when it fails, is cancelled or its deadline passes, none.

    Args:
        runtime: the OCI runtime for requests that name none: a name on PATH or an absolute path.
        root: the folder in which the runtime keeps its state (its --root); None for its default.
        sweep_orphans: reap every child of this process that nobody waits for. Only for a process
            that does nothing else, such as `python -m shimpy`.
    """

    def __init__(
        self, *, runtime: str = "runc", root: str | None = None, sweep_orphans: bool = False
    ) -> None:
        self._default_runtime = runtime
        self._root = root
        self._reaper = Reaper(sweep_orphans=sweep_orphans)
        self._hub = StdioHub()
        self._events: Broadcast[Event] = Broadcast()
        self._container: Container | None = None
        self._closed = False

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
        return guarded(
            super().__mapping__(), streams={"/containerd.shim.v1.Shim/Events": self.subscribe_events}
        )

    def open(self) -> None:
        """Becomes a subreaper, so that nothing is lost before the first Create. Twice is harmless.

        What shims that were killed have left of temporary files is removed.

        Raises:
            FailedPreconditionError: the event loop is not asyncio's own, or SIGCHLD is ignored and
                this is not the main thread.
        """
        self._reaper.open()
        tempdirs.remove_abandoned()

    async def check_runtime(self) -> None:
        """Warns in the log when the default runtime is older than the fixes of its known escapes."""
        from shimpy.core.runtime.advisories import warn_of_known_escapes

        await warn_of_known_escapes(Runc(self._default_runtime, self._root, self._reaper))

    def close_events(self) -> None:
        """Ends every Events stream once it has delivered what was published."""
        self._events.close()

    async def aclose(self) -> None:
        """Ends the service; a container that runs is left running. Twice is harmless.

        Calls under way are rolled back, Events streams end with OK after what was published, and
        what was changed in the process is put back.
        """
        self._closed = True
        reason = UnavailableError("the shim is shutting down")
        if self._container is not None:
            await self._container.abandon(reason)
        self._events.close()
        self._hub.close()
        self._reaper.close()

    async def create(self, create_request: api.CreateRequest) -> api.CreateResponse:
        """Creates the container, up to where Start lets its process run; publishes CREATE.

        In a user namespace the FIFOs that the process writes to are made to belong to its user, as
        the bundle maps it, so that it may open /dev/stdout anew; so they stay. Their mode does too:
        of a FIFO of mode 0600 root remains a reader, others are not any more. Exec does likewise.

        Raises:
            ShimError: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, or what the runtime refused with.
        """
        request = create_request
        self._check_open()
        check_id(request.id)
        runtime = Runc(request.runtime or self._default_runtime, self._root, self._reaper)
        while (taken := self._held()) is not None:
            if not taken.undoing:
                raise AlreadyExistsError(f"id: this shim has container {taken.id} already; delete it first")
            # The create before this one was called off; what it made is just being removed.
            await taken.undone()
        container = Container(
            request.id,
            request.bundle,
            runtime=runtime,
            reaper=self._reaper,
            hub=self._hub,
            publish=self._events.publish,
        )
        self._reaper.open()
        creation = container.create(
            terminal=request.terminal,
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            no_pivot=request.no_pivot,
        )
        self._container = container
        try:
            pid = await creation
        finally:
            # Refused before anything began; a create that is being undone keeps its place.
            if not container.begun:
                self._container = None
        return api.CreateResponse(pid=pid)

    async def start(self, start_request: api.StartRequest) -> Empty:
        """Lets the container's process run; publishes START.

        Raises:
            ShimError: FAILED_PRECONDITION unless the container is created and not yet started.
        """
        await self._existing("start").start()
        return Empty()

    async def delete(self, delete_request: api.DeleteRequest) -> api.DeleteResponse:
        """Kills a process that still runs, with all that it started, and forgets it; init: the container.

        Raises:
            ShimError: INVALID_ARGUMENT for pid 0, NOT_FOUND for one that is not ours.
        """
        pid = delete_request.pid
        return api.DeleteResponse(exit_status=await self._owner(pid).delete(pid))

    async def exec(self, exec_request: api.ExecRequest) -> api.ExecResponse:
        """Starts one more process in the container; publishes EXEC_ADDED.

        Raises:
            ShimError: INVALID_ARGUMENT, FAILED_PRECONDITION, NOT_FOUND, PERMISSION_DENIED, or what
                the runtime refused with.
        """
        request = exec_request
        user = None
        if betterproto.serialized_on_wire(request.user):
            user = User(request.user.uid, request.user.gid, tuple(request.user.additional_gids))
        asked = ExecSpec(
            args=tuple(request.args),
            env=tuple(request.env),
            cwd=request.cwd,
            user=user,
            capabilities=tuple(request.capabilities),
            rlimits=tuple(Rlimit(limit.type, limit.hard, limit.soft) for limit in request.rlimits),
            no_new_privileges=request.no_new_privileges,
            apparmor_profile=request.apparmor_profile,
            selinux_label=request.selinux_label,
            terminal=request.terminal,
        )
        pid = await self._existing("exec").exec(
            asked, stdin=request.stdin, stdout=request.stdout, stderr=request.stderr
        )
        return api.ExecResponse(pid=pid)

    async def pty(self, pty_request: api.PtyRequest) -> Empty:
        """Sets the window size of a process's terminal, also before it is started.

        Raises:
            ShimError: INVALID_ARGUMENT, NOT_FOUND, or FAILED_PRECONDITION without a terminal.
        """
        pid = pty_request.pid
        self._owner(pid).resize(pid, pty_request.width, pty_request.height)
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

    def subscribe_events(self, events_request: api.EventsRequest) -> EventStream:
        """Subscribes at once, and returns the iterator of `events`; it has to be closed."""
        del events_request
        return EventStream(self._events.subscribe())

    async def state(self, state_request: api.StateRequest) -> api.StateResponse:
        """Tells what there is; an empty reply before Create. Never waits and never fails."""
        container = self._live()
        if container is None:
            return api.StateResponse()
        return api.StateResponse(
            id=container.id,
            bundle=container.bundle,
            init_pid=container.init_pid,
            processes=[api.Process(pid=pid, state=_STATES[state]) for pid, state in container.processes()],
        )

    async def pause(self, pause_request: api.PauseRequest) -> Empty:
        """Freezes the running container.

        Raises:
            ShimError: FAILED_PRECONDITION unless it is running.
        """
        await self._existing("pause").pause()
        return Empty()

    async def resume(self, resume_request: api.ResumeRequest) -> Empty:
        """Thaws the paused container.

        Raises:
            ShimError: FAILED_PRECONDITION unless it is paused.
        """
        await self._existing("resume").resume()
        return Empty()

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError("the shim is shutting down")

    def _held(self) -> Container | None:
        """The container, also while it is being created or a create of it is being undone."""
        if self._container is not None and self._container.gone:
            self._container = None
        return self._container

    def _live(self) -> Container | None:
        container = self._held()
        return container if container is not None and container.init_pid else None

    def _existing(self, call: str) -> Container:
        self._check_open()
        container = self._live()
        if container is None:
            raise FailedPreconditionError(f"{call}: there is no container; create one first")
        return container

    def _owner(self, pid: int) -> Container:
        self._check_open()
        if pid == 0:
            raise InvalidArgumentError("pid: is 0; it names the process, as Create, Exec or State told it")
        container = self._live()
        if container is None:
            raise NotFoundError(f"pid: there is no process {pid}, because there is no container")
        return container


class EventStream(AsyncIterator[api.Event]):
    """A subscription, in the words of the API.

    Not a generator: closing one that was never begun would not end the subscription.
    """

    def __init__(self, subscription: Subscription[Event]) -> None:
        self._subscription = subscription

    async def __anext__(self) -> api.Event:
        event = await self._subscription.__anext__()
        return api.Event(
            id=event.container_id,
            type=_EVENT_TYPES[event.type],
            pid=event.pid,
            exit_status=event.exit_status,
        )

    async def aclose(self) -> None:
        """Leaves the channel. Twice is harmless."""
        self._subscription.close()
