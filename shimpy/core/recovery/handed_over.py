"""The containers that this process had before it became another program (execve(2)) are taken up again."""

from __future__ import annotations

import logging
import os

from shimpy.core.container.state import State
from shimpy.core.journal import JournalState
from shimpy.core.recovery.container import take_up_container
from shimpy.core.supervisor import Supervisor
from shimpy.errors import ShimError

_log = logging.getLogger(__name__)


def take_up_handed_over(supervisor: Supervisor, state: JournalState, fds: dict[str, int]) -> None:
    """Takes up containers, and publishes what has happened to them meanwhile.

    They are this process's own children, so that nobody else can have reaped one, and nothing is looked for.

    Args:
        supervisor: opened in this very step of the event loop, without a sweep.
        state: what is known of them.
        fds: what was kept, by name; what is left of it is closed.
    """
    found = []
    for record in state.containers.values():
        try:
            container, cgroup = take_up_container(supervisor, record, fds, handed_over=True)
        except (ShimError, OSError, KeyError, TypeError, ValueError):
            _log.exception("container %s is lost", record.id)
            continue
        now = State.PAUSED if record.paused else State.RUNNING if record.started else State.CREATED
        found.append((container, now, cgroup, {} if record.oom is None else record.oom["seen"]))
    for fd in fds.values():
        os.close(fd)
    fds.clear()
    for container, now, cgroup, seen in found:
        container.go_on(now, cgroup, seen, oom_left=0)
    supervisor.reaper.sweep()
