"""The processes of a container that a shim had when it died: found again, or known to have ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from shimpy.core.cgroup import Cgroup
from shimpy.core.container.context import Context
from shimpy.core.container.process import Process
from shimpy.core.journal import ProcessRecord
from shimpy.core.model import Policy, StdioPaths
from shimpy.core.reaper import LOST_STATUS, procfs
from shimpy.core.stdio.restored import restore_stdio

_log = logging.getLogger(__name__)

# Makes a process once it is known whom its end is told.
MakeProcess = Callable[[Callable[[Process], None], Callable[[], None] | None], Process]


def make_process(
    context: Context,
    record: ProcessRecord,
    cgroup: Cgroup,
    fds: dict[str, int],
    *,
    handed_over: bool = False,
) -> MakeProcess:
    """Returns what makes a process as it was.

    Args:
        context: the container's.
        record: what is known of it.
        cgroup: the container's.
        fds: what was stored for this shim, by name; what the process needs is taken out.
        handed_over: this process itself was that shim, until it became another program (execve(2)).
    """

    def make(on_exit: Callable[[Process], None], on_death: Callable[[], None] | None) -> Process:
        fields = record.process
        paths = {name: str(place[0]) for name, place in fields.get("stdio", {}).items()}
        stdio = StdioPaths(**paths, terminal=bool(fields.get("terminal")))
        policy = policy_of(fields)
        if not record.pid and record.exit_status is None and record.exec_id:
            process = context.open_process(
                stdio, fields.get("spec") or {}, policy, on_exit, exec_id=record.exec_id
            )
            process.number = record.number
            if record.size is not None:
                process.resize(*record.size)
            return process
        lives = record.exit_status is None
        key = str(record.number) if handed_over else f"{record.pid}-{int(fields.get('start') or 0)}"
        io = restore_stdio(
            context.hub,
            fields.get("stdio", {}),
            policy,
            fds,
            key,
            lives=lives,
            reaper=context.reaper,
            known=fields.get("io") if handed_over else None,
        )
        process = Process(
            stdio, io, policy, on_exit, on_death, exec_id=record.exec_id, journal=context.journal
        )
        process.number, process.size, process.exited_at = record.number, record.size, record.exited_at
        process.cgroup = cgroup.known_child(fields.get("cgroup"))
        _find(process, context, record, fds, is_foreign=not handed_over)
        return process

    return make


def _find(
    process: Process, context: Context, record: ProcessRecord, fds: dict[str, int], *, is_foreign: bool
) -> None:
    """Has the process be waited for, or be one that has ended."""
    identity = (int(record.process.get("start") or 0), int(record.process.get("inode") or 0))
    name = f"pid-{record.pid}-{identity[0]}"
    stored = fds.pop(name, -1)
    if record.exit_status is None:
        pidfd = _open(record.pid, identity, stored)
        if pidfd is not None:
            process.watch(context.reaper, record.pid, pidfd, identity, is_foreign=is_foreign)
            return
        _log.warning(
            "process %d of container %s has ended while there was no shim; its exit status is lost",
            record.pid,
            record.container_id,
        )
    elif stored >= 0:
        os.close(stored)
        if context.hub.store is not None:
            context.hub.store.remove(name)
    status = LOST_STATUS if record.exit_status is None else record.exit_status
    process.has_ended(context.reaper, record.pid, status, told=record.exit_told)


def _open(pid: int, identity: tuple[int, int], stored: int) -> int | None:
    """Returns a pidfd of the process, whether it lives or not; None if it has been reaped.

    Args:
        pid: its process id.
        identity: what no other has that gets the pid later.
        stored: a pidfd of it, or -1.
    """
    if stored >= 0:
        if os.fstat(stored).st_ino == identity[1]:
            return stored
        os.close(stored)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        if (procfs.start_time(pid), os.fstat(pidfd).st_ino) == identity and procfs.is_there(pidfd):
            return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None


def policy_of(process: Mapping[str, Any]) -> Policy:
    """Returns how a process lives.

    Args:
        process: what is known of it, see `ProcessRecord.process`.

    Raises:
        TypeError: the policy has something that this shimpy does not know.
    """
    if (fields := process.get("policy")) is None:
        return Policy()
    owner = fields.get("owner")
    return Policy(**{**fields, "owner": None if owner is None else (int(owner[0]), int(owner[1]))})
