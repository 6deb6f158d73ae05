"""The containers that a shim had when it died become those of the shim that is started next.

Nobody is signalled who is not ours: a process is found by its pid, the time of its start and the inode number
of its pidfd, a cgroup by its path and inode number. What was under way is undone or completed, so that no
call has half an effect.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from shimpy.core.cgroup import Cgroup
from shimpy.core.cgroup.cgroup import same_cgroup
from shimpy.core.cgroup.paths import kill_cgroups, remove_cgroups
from shimpy.core.container.state import State
from shimpy.core.journal import ContainerRecord, Journal, call_token
from shimpy.core.model import EventKind
from shimpy.core.recovery.commands import end_commands
from shimpy.core.recovery.container import TakenUpContainer, take_up_container
from shimpy.core.registry import OwnedContainer
from shimpy.core.removal import remove_container
from shimpy.core.supervisor import Supervisor
from shimpy.errors import ShimError

_log = logging.getLogger(__name__)


class TakeUp:
    """Takes up what a journal knows of.

    Args:
        supervisor: gets the containers.
        journal: goes on with what it knows.
        fds: what was stored for this shim, by name.
    """

    def __init__(self, supervisor: Supervisor, journal: Journal, fds: dict[str, int]) -> None:
        self._supervisor = supervisor
        self._journal = journal
        self._fds = fds
        self._announce: list[Callable[[], None]] = []

    async def run(self) -> None:
        """Undoes what was under way, and finds everything else; nothing is published yet."""
        state = self._journal.state
        if state.intents or state.containers:
            await end_commands(self._journal.marker)
        for number, intent in list(state.intents.items()):
            if intent["op"] == "create":
                await self._undo_create(str(intent["container"]), intent)
                self._journal.closed(number)
            elif intent["op"] == "exec":
                await _undo_exec(intent)
                self._journal.closed(number)
        for record in list(state.containers.values()):
            try:
                self._take_up(record)
            except (ShimError, OSError, KeyError, TypeError, ValueError) as error:
                _log.error("container %s cannot be taken up: %s", record.id, error)
        for name, fd in self._fds.items():
            os.close(fd)
            if self._supervisor.store is not None:
                self._supervisor.store.remove(name)
        self._fds.clear()

    def announce(self) -> None:
        """Publishes what has happened meanwhile, and goes on."""
        for announce in self._announce:
            announce()

    async def _undo_create(self, container_id: str, intent: Mapping[str, Any]) -> None:
        made, leftovers = intent["made"], intent["leftovers"]
        runtime = made["runtime"]
        owned = OwnedContainer(
            container_id,
            str(made["bundle"]),
            str(runtime["name"]),
            runtime["root"],
            tuple(leftovers["leaves"]),
            tuple(leftovers["above"]),
        )
        _log.warning("the create of container %s was not completed; it is undone", container_id)
        try:
            await remove_container(owned, self._supervisor.reaper)
        except (ShimError, OSError) as error:
            _log.warning("cannot remove what is left of container %s: %s", container_id, error)

    def _take_up(self, record: ContainerRecord) -> None:
        container, cgroup = take_up_container(self._supervisor, record, self._fds)
        _log.info("container %s is taken up, with init %d", record.id, record.init.pid)
        self._announce.append(partial(self._go_on, container, record, cgroup))

    def _go_on(self, container: TakenUpContainer, record: ContainerRecord, cgroup: Cgroup) -> None:
        """Publishes what has happened to a container since."""
        left = int((record.oom or {}).get("left", 0))
        seen = {} if record.oom is None else record.oom["seen"]
        intents = {
            str(intent["op"]): number
            for number, intent in self._journal.state.intents.items()
            if intent["container"] == record.id
        }
        kinds = []
        if not record.started and "start" in intents and _has_begun(container):
            kinds.append(EventKind.START)
        state = State.CREATED if not (record.started or kinds) else State.RUNNING
        if state is State.RUNNING and cgroup.killable and cgroup.frozen():
            state = State.PAUSED
        if (state is State.PAUSED) != record.paused:
            kinds.append(EventKind.RESUMED if record.paused else EventKind.PAUSED)
        for kind in kinds:
            self._publish(container, kind)
        for number in intents.values():
            self._journal.closed(number)
        container.go_on(state, cgroup, seen, oom_left=left)

    def _publish(self, container: TakenUpContainer, kind: EventKind) -> None:
        """Publishes what a call has brought about that was not completed, in the name of that call."""
        op = {EventKind.START: "start", EventKind.PAUSED: "pause", EventKind.RESUMED: "resume"}[kind]
        token = next(
            (
                str(intent.get("token", ""))
                for intent in self._journal.state.intents.values()
                if intent["op"] == op and intent["container"] == container.id
            ),
            "",
        )
        reset = call_token.set(token)
        try:
            container.publish(kind)
        finally:
            call_token.reset(reset)


def _has_begun(container: TakenUpContainer) -> bool:
    """Returns whether the start of a container took effect; its command has ended."""
    init = container.init
    if init is not None and init.exit_status is None and init.has_execed:
        return True
    directory = container.runtime.state_directory(container.id)
    # The FIFO that init waits in, which the runtime removes when it has let it go.
    return (
        directory is not None
        and os.path.exists(directory)
        and not os.path.lexists(os.path.join(directory, "exec.fifo"))
    )


async def _undo_exec(intent: Mapping[str, Any]) -> None:
    path = same_cgroup(intent.get("cgroup"))
    if path is None:
        return
    _log.warning("an exec in container %s was not completed; it is undone", intent["container"])
    await kill_cgroups([path])
    await remove_cgroups([path])
