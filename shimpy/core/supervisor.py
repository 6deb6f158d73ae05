"""What any API of a shim stands on: the containers by id, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from shimpy.core.container.container import ManagedContainer
from shimpy.core.container.context import Context
from shimpy.core.container.create import CreateOptions
from shimpy.core.model import ContainerEvent, Policy, StdioPaths
from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runtime
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.stdio import StdioHub
from shimpy.errors import AlreadyExistsError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from shimpy.core.fd_store import FdStore
    from shimpy.core.hooks.hook_set import HookSet
    from shimpy.core.hooks.interface import Hooks
    from shimpy.core.journal import Journal

_DEFAULT_OPTIONS = CreateOptions()

# Is called with each event, in order, in the event loop. It must not raise and not block.
Observer = Callable[[ContainerEvent], None]


class Supervisor:
    """Any number of containers by id, with one reaper and one hub for the stdio of all of them.

    It belongs to the event loop in which it is first used. While it is open the process is a child subreaper;
    see `reaper.Reaper` for all that it changes.

    Args:
        sweep_orphans: reap every child of this process that has no other waiter. Only for a process that does
            nothing else.
        hooks: one object with hooks, or several; asked and told of every container that has none of its own.
        journal: what happens to a container is written down there before anybody is told; None: nowhere.

    Attributes:
        reaper: waits for the processes of all containers.
        journal: see above.
    """

    def __init__(
        self,
        *,
        sweep_orphans: bool = False,
        hooks: Hooks | Iterable[Hooks] = (),
        journal: Journal | None = None,
    ) -> None:
        self.reaper = Reaper(sweep_orphans=sweep_orphans)
        self._hub = StdioHub()
        self._observers: list[Observer] = []
        self._containers: dict[str, ManagedContainer] = {}
        self._hook_sets: list[HookSet] = []
        self.journal = journal
        self._hooks = _hook_set(hooks)
        if self._hooks is not None:
            self._hook_sets.append(self._hooks)
        self._closed = False

    def __iter__(self) -> Iterator[ManagedContainer]:
        """The containers that are there, also those that are being created or whose create is rolled back."""
        for container in list(self._containers.values()):
            if container.is_gone:
                del self._containers[container.id]
            else:
                yield container

    def observe(self, observer: Observer) -> None:
        """Has an observer told of every event from now on, after those that were there before it.

        What has to know of an event before any client does, such as a journal, observes first.

        Args:
            observer: called with each event.
        """
        self._observers.append(observer)

    def open(self, *, sweep: bool = True) -> None:
        """Becomes a subreaper, so that nothing is lost before the first create. Idempotent.

        Args:
            sweep: see `Reaper.open`.

        Raises:
            FailedPreconditionError: the event loop is not asyncio's own, or SIGCHLD is ignored and
                this is not the main thread.
        """
        self.reaper.open(sweep=sweep)

    @property
    def hub(self) -> StdioHub:
        """What the stdio of all containers shares."""
        return self._hub

    @property
    def has_hooks(self) -> bool:
        """Whether hooks have been loaded."""
        return bool(self._hook_sets)

    @property
    def store(self) -> FdStore | None:
        """What holds the file descriptors that would be lost with this process; None: nothing does."""
        return self._hub.store

    @store.setter
    def store(self, store: FdStore | None) -> None:
        self._hub.store = store

    def check_open(self) -> None:
        """Refuses a call that comes after `aclose`.

        Raises:
            UnavailableError: it has been closed.
        """
        if self._closed:
            raise UnavailableError("the shim is shutting down")

    def find(self, container_id: str) -> ManagedContainer | None:
        """Returns a container whose create has succeeded, None if there is none of that id."""
        container = self._containers.get(container_id)
        return None if container is None or container.is_gone or container.init is None else container

    def get(self, container_id: str) -> ManagedContainer:
        """Returns a container whose create has succeeded.

        Raises:
            NotFoundError: there is none of that id.
        """
        container = self.find(container_id)
        if container is None:
            raise NotFoundError(f"container {container_id} does not exist")
        return container

    def context(
        self,
        container_id: str,
        bundle: Bundle,
        runtime: Runtime,
        *,
        hooks: HookSet | None = None,
        namespace: str = "",
    ) -> Context:
        """Returns what a container is made with, or taken up.

        Args:
            container_id: its id.
            bundle: what it is made from.
            runtime: whose commands run it.
            hooks: as for `create`.
            namespace: containerd's.
        """
        context = Context(container_id, bundle, runtime, self.reaper, self._hub)
        if self.journal is not None:
            from shimpy.core.container.journaled import ContainerJournal

            context.journal = ContainerJournal(self.journal, context)
        if (hook_set := hooks or self._hooks) is not None:
            from shimpy.core.hooks.container_hooks import ContainerHooks

            context.hooks = ContainerHooks(hook_set, container_id, namespace, bundle)
            if hook_set not in self._hook_sets:
                self._hook_sets.append(hook_set)
        return context

    def add(self, container: ManagedContainer) -> None:
        """Takes up a container that is there already, of an id that none has."""
        self._containers[container.id] = container

    async def create(
        self,
        container_id: str,
        bundle: Bundle,
        runtime: Runtime,
        stdio: StdioPaths,
        *,
        policy: Policy,
        options: CreateOptions = _DEFAULT_OPTIONS,
        hooks: HookSet | None = None,
    ) -> ManagedContainer:
        """Creates a container, up to where its `start` lets its process run; publishes CREATE.

        It waits for an earlier create of the same id that is being rolled back.

        Args:
            container_id: its id, as `spec.check_id` accepts it.
            bundle: what it is made from.
            runtime: whose commands run it.
            stdio: what its process reads and writes.
            policy: how its processes live.
            options: how the runtime makes it.
            hooks: asked and told of this container instead of the supervisor's; closed by `aclose`.

        Raises:
            AlreadyExistsError: there is a container of that id.
            ShimError: the stdio cannot be used, or the runtime refused.
        """
        self.check_open()
        self.open()
        while (held := self._held(container_id)) is not None:
            if not held.is_rolling_back:
                raise AlreadyExistsError(f"id: container {container_id} exists already; delete it first")
            await held.wait_rolled_back()
        context = self.context(container_id, bundle, runtime, hooks=hooks, namespace=policy.namespace)
        container = ManagedContainer(context, publish=self.publish, policy=policy)
        creating = container.create(stdio, options)
        self._containers[container_id] = container
        try:
            await creating
        finally:
            # Refused before anything was done. A create that is being rolled back keeps its id.
            if not container.create_started and self._containers.get(container_id) is container:
                del self._containers[container_id]
        return container

    async def aclose(self) -> None:
        """Ends it: calls under way are rolled back, containers are left running. Idempotent.

        What was changed in the process is put back.
        """
        self._closed = True
        reason = UnavailableError("the shim is shutting down")
        for container in list(self):
            await container.abandon(reason)
        for hook_set in self._hook_sets:
            await hook_set.aclose()
        self._hub.close()
        self.reaper.close()

    def _held(self, container_id: str) -> ManagedContainer | None:
        container = self._containers.get(container_id)
        return None if container is None or container.is_gone else container

    def publish(self, event: ContainerEvent) -> None:
        """Tells every observer of an event, in order."""
        for observer in self._observers:
            observer(event)


def _hook_set(hooks: Hooks | Iterable[Hooks]) -> HookSet | None:
    """Returns a set of hooks; None if there are none, which is then all that they cost."""
    if hooks == ():
        return None
    from shimpy.core.hooks.hook_set import HookSet, check_hooks

    checked = check_hooks(hooks)
    return HookSet(checked) if checked else None
