"""The containers of the Task API: what containerd adds to what the core knows of them."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from shimpy.api import task
from shimpy.core.cgroup.stats import StatsReader
from shimpy.core.container.container import ManagedContainer
from shimpy.core.container.create import CreateOptions
from shimpy.core.container.process import Process
from shimpy.core.model import ContainerEvent, Policy, StdioPaths
from shimpy.core.rootfs.attach import mount_rootfs, unmount_rootfs
from shimpy.core.rootfs.mounts import Mount
from shimpy.core.runtime import Runc
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.options import RuntimeOptions
from shimpy.core.supervisor import Supervisor
from shimpy.errors import AlreadyExistsError, NotFoundError, ShimError
from shimpy.services.task.checkpoint import restore_options
from shimpy.services.task.encoding import read_options
from shimpy.services.task.events import Forward, translate
from shimpy.services.task.hooks import TaskHooks
from shimpy.transport.protobuf import decode, encode

if TYPE_CHECKING:
    from shimpy.core.cgroup.stats import v1, v2

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ROOT: Final = "/run/containerd/runc"
_DRAIN_TIMEOUT: Final = 10.0


@dataclass(slots=True)
class Record:
    """What a container was created by, and what reads its statistics once it is created."""

    request: task.CreateTaskRequest
    options: RuntimeOptions
    stats: StatsReader | None = None


class Containers:
    """Creates and deletes containers with their root filesystems, and forwards what happens to them.

    Args:
        supervisor: has the containers.
        namespace: containerd's.
        forward: queues an event for containerd.
        hooks: finds the hooks of each.
        exec_cgroups: see `Policy.exec_cgroups`.

    Attributes:
        under_way: what completes although its call was called off.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        namespace: str,
        forward: Forward | None,
        hooks: TaskHooks,
        *,
        exec_cgroups: bool,
    ) -> None:
        self._supervisor = supervisor
        self._namespace = namespace
        self._forward = forward
        self._hooks = hooks
        self._exec_cgroups = exec_cgroups
        self._records: dict[str, Record] = {}
        self.under_way: set[asyncio.Task[Any]] = set()
        if forward is not None:
            supervisor.observe(self._observe)

    @property
    def is_empty(self) -> bool:
        """True while there is no container, nor one that is being created."""
        return not self._records

    async def create(self, request: task.CreateTaskRequest) -> ManagedContainer:
        """Mounts a root filesystem and creates its container, or neither.

        Raises:
            ShimError: see `Supervisor.create` and `mount_rootfs`.
        """
        hooks = await self._hooks.find(request.options)
        if request.id in self._records:
            raise AlreadyExistsError(f"id: container {request.id} exists already; delete it first")
        options = read_options(request.options)
        # containerd looks for it in the options of runtimes that it knows, and passes on those of others.
        request.checkpoint = request.checkpoint or options.criu_image_path
        bundle = Bundle.read(request.bundle)
        options.save(bundle.path)
        runtime = Runc(
            options.binary_name or "runc",
            os.path.join(options.root or _ROOT, self._namespace),
            self._supervisor.reaper,
            systemd_cgroup=options.systemd_cgroup,
        )
        mounts = [Mount(m.type, m.source, m.target, tuple(m.options)) for m in request.rootfs]
        rootfs = os.path.join(bundle.path, "rootfs")
        self._records[request.id] = record = Record(request, options)
        try:
            if mounts:
                await mount_rootfs(rootfs, mounts, self._supervisor.reaper)
            try:
                container = await self._supervisor.create(
                    request.id,
                    bundle,
                    runtime,
                    StdioPaths(request.stdin, request.stdout, request.stderr, request.terminal),
                    policy=self._policy(options),
                    options=CreateOptions(
                        options.no_pivot_root,
                        options.no_new_keyring,
                        restore_options(request, options) if request.checkpoint else None,
                    ),
                    hooks=hooks,
                )
            except BaseException:
                if mounts:
                    await unmount_rootfs(rootfs)
                raise
        except BaseException:
            self._records.pop(request.id, None)
            raise
        if not request.checkpoint:
            _note_init(record, container)
        return container

    async def start(self, container: ManagedContainer) -> None:
        """Starts a container; one that was created from a checkpoint is restored.

        Raises:
            ShimError: the state of the container forbids it, or the runtime refused.
        """
        await container.start()
        record = self._records.get(container.id)
        if record is not None and record.request.checkpoint:
            _note_init(record, container)

    async def add_exec(
        self, container: ManagedContainer, exec_id: str, spec: Mapping[str, Any], stdio: StdioPaths
    ) -> Process:
        """Registers an exec; see `ManagedContainer.add_exec`."""
        record = self._records.get(container.id)
        options = RuntimeOptions() if record is None else record.options
        return await container.execs.add(exec_id, spec, stdio, policy=self._policy(options))

    async def delete(self, container: ManagedContainer, init: Process) -> int:
        """Deletes a container, and unmounts its root filesystem; returns the exit status of init.

        Raises:
            ShimError: the runtime refused; the delete can be tried again.
        """
        status = await container.delete(init)
        self._records.pop(container.id, None)
        try:
            await unmount_rootfs(os.path.join(container.bundle.path, "rootfs"))
        except ShimError as error:
            _log.warning("the root filesystem of container %s stays mounted: %s", container.id, error)
        return status

    async def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for what is not to be called off once it has begun.

        Args:
            work: a change of a container.
        """
        change = asyncio.ensure_future(work)
        self.under_way.add(change)
        # Its error is the answer of a call that may have no waiter any more.
        change.add_done_callback(lambda done: done.cancelled() or done.exception())
        change.add_done_callback(self.under_way.discard)
        return await asyncio.shield(change)

    def hand_over(self) -> dict[str, Any]:
        """Returns what is known here of the containers, for another's `take_up`, as JSON has it."""
        return {
            name: {
                "request": base64.b64encode(encode(record.request)).decode(),
                "stats": None if record.stats is None else record.stats.directories,
            }
            for name, record in self._records.items()
        }

    def take_up(self, known: Mapping[str, Any]) -> None:
        """Takes up what is known of containers that the supervisor has, or is about to get.

        Args:
            known: as another's `hand_over` returned it.

        Raises:
            ShimError, KeyError, ValueError: it is not understood.
        """
        self._records.update(read_records(known))

    def read_stats(self, container: ManagedContainer) -> v1.Metrics | v2.Metrics:
        """Reads what a container uses.

        Raises:
            NotFoundError: its cgroups are gone.
        """
        record = self._records.get(container.id)
        reader = None if record is None else record.stats
        if reader is None:
            try:
                reader = StatsReader.of(container.get("").pid)
            except OSError as error:
                raise NotFoundError(f"the cgroups of container {container.id} are gone: {error}") from error
        return reader.read()

    def _policy(self, options: RuntimeOptions) -> Policy:
        """Returns how processes of the Task API live."""
        owner = (options.io_uid, options.io_gid)
        return Policy(
            exec_cgroups=self._exec_cgroups,
            relay_output=True,
            hold_stdin=True,
            drain_timeout=_DRAIN_TIMEOUT,
            log_uris=True,
            namespace=self._namespace,
            owner=owner if any(owner) else None,
        )

    def _observe(self, event: ContainerEvent) -> None:
        record = self._records.get(event.container_id)
        if record is not None and self._forward is not None:
            self._forward(*translate(event, record.request))


def read_records(known: Mapping[str, Any]) -> dict[str, Record]:
    """Returns the records of containers; see `Containers.take_up`."""
    found = {}
    for name, fields in known.items():
        request = decode(task.CreateTaskRequest, base64.b64decode(fields["request"]))
        stats = None if fields["stats"] is None else StatsReader(fields["stats"])
        found[name] = Record(request, read_options(request.options), stats)
    return found


def _note_init(record: Record, container: ManagedContainer) -> None:
    """Notes where the cgroups of a container are, and the pid of its init."""
    pid = container.get("").pid
    # Read while init lives: once it is dead nothing says where its cgroups are.
    with suppress(OSError):
        record.stats = StatsReader.of(pid)
    _write_pid(container.bundle.path, pid)


def _write_pid(bundle: str, pid: int) -> None:
    """Writes init's pid into the bundle, for a `delete` that has to do without this process."""
    try:
        with open(os.path.join(bundle, "init.pid"), "w", encoding="ascii") as file:
            file.write(str(pid))
    except OSError as error:
        _log.warning("cannot write init.pid into %s: %s", bundle, error)
