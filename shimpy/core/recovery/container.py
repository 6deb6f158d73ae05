"""A container that an earlier shim has created."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from shimpy.core.cgroup import Cgroup
from shimpy.core.container.container import ManagedContainer
from shimpy.core.container.start import Start
from shimpy.core.container.state import State
from shimpy.core.journal import ContainerRecord
from shimpy.core.model import EventKind, Policy
from shimpy.core.recovery.processes import MakeProcess, make_process
from shimpy.core.runtime import Runc
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.ids import ContainerId
from shimpy.core.supervisor import Supervisor


class TakenUpContainer(ManagedContainer):
    """A container that is there already; once `go_on` was called it is as any other."""

    def take_up(
        self, init: MakeProcess, execs: Sequence[MakeProcess], cgroup: Cgroup, release: Callable[[], None]
    ) -> None:
        """Takes up what an earlier shim had created; `go_on` follows."""
        process = init(self._init_exited, self._death.noticed)
        self._held.callback(release)
        self._table.take_up(process, [make(self._table.exec_exited, None) for make in execs])
        self._hold(process, cgroup, Start(self.id, process, self.runtime))

    def publish(self, kind: EventKind) -> None:
        """Publishes what was found to have happened to it."""
        self._table.publish(kind, self._existing().init)

    def go_on(self, state: State, cgroup: Cgroup, oom_seen: Mapping[str, int], *, oom_left: int) -> None:
        """Goes on as if there had been no other shim: what has ended is published."""
        self._changes.state = state
        self._table.go_on(cgroup, oom_seen, oom_left)
        if self._existing().init.exit_status is not None:
            self._changes.state = State.STOPPED
            self._death.noticed()


def take_up_container(
    supervisor: Supervisor, record: ContainerRecord, fds: dict[str, int], *, handed_over: bool = False
) -> tuple[TakenUpContainer, Cgroup]:
    """Gives a supervisor a container that an earlier shim had created; its `go_on` follows.

    Args:
        supervisor: gets it.
        record: what is known of it.
        fds: what was stored, by name; its own are taken out.
        handed_over: see `make_process`.

    Returns:
        The container and its cgroups.

    Raises:
        ShimError, OSError, KeyError, TypeError, ValueError: it cannot be taken up.
    """
    made = record.made
    runtime = Runc(
        str(made["runtime"]["name"]),
        made["runtime"]["root"],
        supervisor.reaper,
        systemd_cgroup=bool(made["runtime"].get("systemd_cgroup")),
    )
    bundle = Bundle(str(made["bundle"]), made["spec"])
    cgroup = Cgroup.known(made["cgroup"] or {})
    context = supervisor.context(record.id, bundle, runtime)
    container = TakenUpContainer(context, publish=supervisor.publish, policy=Policy())
    taken = ContainerId(runtime, record.id)
    taken.created()
    container.take_up(
        make_process(context, record.init, cgroup, fds, handed_over=handed_over),
        [make_process(context, each, cgroup, fds, handed_over=handed_over) for each in record.execs.values()],
        cgroup,
        taken.release,
    )
    supervisor.add(container)
    return container, cgroup
