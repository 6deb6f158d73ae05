"""What shimpy has running on this machine, and what is left of what ran: `shimpy ps` and `shimpy prune`."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shimpy.core import tempdirs
from shimpy.core.id_ranges import remove_abandoned
from shimpy.core.journal import journal_directories, read_records, replay
from shimpy.core.reaper import Reaper
from shimpy.core.registry import OwnedContainer, ProgramDirectory, programs
from shimpy.core.removal import remove_container
from shimpy.daemon.guardian.cleanup import clean_up
from shimpy.errors import AlreadyExistsError, FailedPreconditionError, ShimError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimpy.core.journal import JournalDirectory, JournalState

_log = logging.getLogger("shimpy.shim")


@dataclass(frozen=True, slots=True)
class ListedContainer:
    """A container that is there, or of which something is.

    Attributes:
        id: its id.
        pid: its init; 0 as long as it is being created.
        state: `running`; `created`, by a program that is about to start it; `orphaned`, if it runs and nobody
            looks after it; `stale`, if it does not even run; `removed`, by `prune`.
        owner: the socket of its shim, or the pid of the program that has made it.
        bundle: the path of its bundle.
    """

    id: str
    pid: int
    state: str
    owner: str
    bundle: str


def list_containers() -> list[ListedContainer]:
    """Returns the containers of this user that are there, or of which something is.

    Those of containerd are not among them: it knows them itself.
    """
    found: list[ListedContainer] = []
    for program in programs():
        with suppress(FileNotFoundError):  # it has just ended
            found += _of_program(program, alive=program.is_alive())
    for directory, state in _journals():
        found += _of_journal(state, alive=directory.is_live() or directory.is_kept())
    return found


@dataclass(frozen=True, slots=True)
class FoundContainer:
    """A container, found by its name.

    Attributes:
        record: what its maker has written down of it.
        owner: the program or shim that has made it, for a message.
        socket: that of the shim that looks after it; empty: it is a program's, or its shim is dead.
    """

    record: OwnedContainer
    owner: str
    socket: str


def find_container(name: str) -> FoundContainer | None:
    """Returns the container of this user that has a name; None if there is none.

    Args:
        name: its id.

    Raises:
        FailedPreconditionError: it does not run, or several have that name.
    """
    named = [one for one in _all() if one.record.id == name]
    running = [one for one in named if one.socket or one.record.is_running()]
    if len(running) > 1:
        owners = " and ".join(one.owner for one in running)
        raise FailedPreconditionError(f"there are {len(running)} containers {name}: those of {owners}")
    if named and not running:
        raise FailedPreconditionError(f"container {name} of {named[0].owner} does not run")
    return running[0] if running else None


def _all() -> Iterator[FoundContainer]:
    for program in programs():
        owner = program.owner()
        name = "a program" if owner is None else f"process {owner.pid}"
        with suppress(FileNotFoundError):  # it has just ended
            for record in program.containers():
                yield FoundContainer(record, name, "")
    for directory, state in _journals():
        alive = directory.is_live() or directory.is_kept()
        for record in _owned(state):
            yield FoundContainer(record, state.socket, state.socket if alive else "")


async def prune(*, running: bool = False) -> list[ListedContainer]:
    """Removes what programs and shims that are dead have left: nothing of one that is alive.

    Containers that still run are removed with the program that made them, as its guardian would have done.
    Those of a shim that had a socket may have been left running on purpose, or until it is started again.

    Args:
        running: remove these too.

    Returns:
        What was found: with the state `removed`, or the one that it still has.
    """
    found: list[ListedContainer] = []
    for program in programs():
        with suppress(FileNotFoundError):  # it has just ended
            found += await _prune_program(program)
    remove_abandoned()
    for directory, state in _journals():
        if directory.is_kept():
            continue
        try:
            directory.lock()
        except (AlreadyExistsError, FileNotFoundError):  # it is alive, or has just ended
            continue
        try:
            found += await _prune_journal(directory, state, running=running)
        finally:
            directory.unlock()
    return found


async def _prune_program(program: ProgramDirectory) -> list[ListedContainer]:
    lock = program.lock()
    if lock is None:
        return []
    try:
        listed = _of_program(program, alive=False)
        left = {container.id for container in await clean_up(program)}
    finally:
        os.close(lock)
    return [one if one.id in left else replace(one, state="removed") for one in listed]


async def _prune_journal(
    directory: JournalDirectory, state: JournalState, *, running: bool
) -> list[ListedContainer]:
    found = []
    reaper = Reaper()
    reaper.open()
    try:
        for listed, container in zip(_of_journal(state, alive=False), _owned(state), strict=True):
            if listed.state == "orphaned" and not running:
                found.append(listed)
                continue
            try:
                if state.is_of_this_boot:
                    await remove_container(container, reaper)
            except (ShimError, OSError) as error:
                _log.warning("container %s cannot be removed: %s", container.id, error)
                found.append(listed)
            else:
                found.append(replace(listed, state="removed"))
    finally:
        reaper.close()
    if all(one.state == "removed" for one in found):
        directory.remove()
    return found


def _of_program(program: ProgramDirectory, *, alive: bool) -> list[ListedContainer]:
    owner = program.owner()
    name = "" if owner is None else str(owner.pid)
    return [
        ListedContainer(each.id, each.pid, _state(each, alive=alive), name, each.bundle)
        for each in program.containers()
    ]


def _of_journal(state: JournalState, *, alive: bool) -> list[ListedContainer]:
    found = []
    for container in state.containers.values():
        runs = state.is_of_this_boot and container.init.is_there()
        kind = ("running" if alive else "orphaned") if runs else "stale"
        bundle = str(container.made.get("bundle", ""))
        found.append(ListedContainer(container.id, container.init.pid, kind, state.socket, bundle))
    return found


def _state(container: OwnedContainer, *, alive: bool) -> str:
    if alive:
        return "running" if container.pid else "created"
    return "orphaned" if container.is_running() else "stale"


def _owned(state: JournalState) -> Iterator[OwnedContainer]:
    """Yields what has to be known of the containers of a journal to remove them."""
    for container in state.containers.values():
        made = container.made
        runtime = made.get("runtime") or {}
        cgroups = (made.get("cgroup") or {}).get("made") or {}
        yield OwnedContainer(
            container.id,
            str(made.get("bundle", "")),
            str(runtime.get("name", "runc")),
            runtime.get("root"),
            tuple(cgroups.get("made", ())),
            tuple(cgroups.get("above", ())),
            container.init.pid,
            int(container.init.process.get("start") or 0),
        )


def _journals() -> Iterator[tuple[JournalDirectory, JournalState]]:
    """Yields the journals but for those of shims that programs have: these are said to be the program's."""
    for directory in journal_directories():
        try:
            state = replay(read_records(directory.read(), directory.journal))
        except (ShimError, OSError) as error:
            _log.warning("%s", error)
            continue
        if state is not None and not state.socket.startswith(f"{tempdirs.base()}/program-"):
            yield directory, state
