"""What the parts of one container share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from shimpy.core.cgroup import Cgroup
from shimpy.core.container.pause import Pause
from shimpy.core.container.process import Process
from shimpy.core.container.restore import Restore
from shimpy.core.container.start import Start
from shimpy.core.model import Policy, StdioPaths
from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runtime
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.stdio import Owner, StdioHub, open_stdio, owner_of

if TYPE_CHECKING:
    from shimpy.core.container.journaled import ContainerJournal
    from shimpy.core.hooks.container_hooks import ContainerHooks, Hooked
    from shimpy.core.stdio.logs import LogPrograms


@dataclass(slots=True)
class Context:
    """What a container is made with.

    Attributes:
        id: the container's id.
        bundle: what it is made from; hooks may change it before the create.
        runtime: whose commands run it.
        reaper: waits for its processes.
        hub: watches its FIFOs.
        hooks: are asked and told; None if there are none.
        journal: is told before anybody else; None if there is none.
    """

    id: str
    bundle: Bundle
    runtime: Runtime
    reaper: Reaper
    hub: StdioHub
    hooks: ContainerHooks | None = None
    journal: ContainerJournal | None = None

    def open_process(
        self,
        stdio: StdioPaths,
        spec: Mapping[str, Any],
        policy: Policy,
        on_exit: Callable[[Process], None],
        on_death: Callable[[], None] | None = None,
        *,
        exec_id: str = "",
        hooked: Hooked | None = None,
    ) -> Process:
        """Opens what a process is to read and write, and returns the process.

        Args:
            stdio: what it reads and writes.
            spec: the `process` object of the OCI runtime-spec.
            policy: how it lives.
            on_exit: see `Process`.
            on_death: see `Process`.
            exec_id: see `Process`.
            hooked: what hooks know of it.

        Raises:
            ShimError: as for `stdio.open_stdio`.
        """
        owner = owner_of(self.bundle.spec, spec) if policy.owner is None else Owner(*policy.owner)
        io = open_stdio(
            self.hub,
            stdio,
            policy=policy,
            is_exec=on_death is None,
            owner=owner,
            logs=self._log_programs(exec_id, policy),
            tap=None if hooked is None else hooked.tap,
        )
        return Process(
            stdio,
            io,
            policy,
            on_exit,
            on_death,
            exec_id=exec_id,
            spec=spec,
            hooked=hooked,
            journal=self.journal,
        )

    def _log_programs(self, exec_id: str, policy: Policy) -> LogPrograms | None:
        if not policy.log_uris:
            return None
        from shimpy.core.stdio.logs import LogPrograms

        return LogPrograms(self.reaper, exec_id or self.id, policy.namespace)


class Created(NamedTuple):
    """What there is of a container once its create has succeeded.

    Attributes:
        init: its first process.
        cgroup: its cgroups.
        start: starts it, or restores it from a checkpoint.
        pause: pauses and resumes it.
    """

    init: Process
    cgroup: Cgroup
    start: Start | Restore
    pause: Pause
