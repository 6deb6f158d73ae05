"""An audit log: a line of JSON for every process that is asked for, refused or failed, and for every exit."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from typing import Any, Final

from shimpy import HookContainer, HookCreate, HookExec, HookProcess, Hooks, ShimError, User
from shimpy.hooks.kubernetes import place

_MODE: Final = 0o600


class AuditLog(Hooks):
    """Writes what is run, by whom and where, and how it ended, to a file.

    A line is there before its process is: one that cannot be written, for a full disk for instance,
    refuses the create or exec. Each line is one write to the end of the file, so that it is whole whatever
    is killed, and any number of shims may write to one file. The file is opened for each line; it may be
    moved away at any time.

    Every line has `time` (RFC 3339, UTC), `event`, `process` (an id that the lines of one process have in
    common), `namespace`, `container`, `exec_id`, `args`, `cwd`, `user` and `terminal`, and in Kubernetes
    `kubernetes` with the namespace, the pod and the container's name. The events:

    * `create` and `exec`: a container, or a process in one, is about to be started.
    * `failed`: it was refused or could not be started; `error` says with what status and why.
    * `exit`: with `pid`, `exit_status` and `seconds`, the time that it ran.

    Args:
        path: of the file; made with mode 0600 if it is not there.
        sync: have each line reach the disk before its process is started (fsync(2)), so that it survives
            the machine's crash too.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = False) -> None:
        self._path = os.fspath(path)
        self._sync = sync
        self._torn = False

    async def before_create(self, create: HookCreate) -> None:
        """Writes `create`."""
        process = create.spec["process"]
        user = process.get("user") or {}
        self._write(
            "create",
            time.time(),
            create.container,
            process=create.process_id,
            exec_id="",
            args=process.get("args"),
            cwd=process.get("cwd"),
            user={"uid": user.get("uid", 0), "gid": user.get("gid", 0)},
            terminal=bool(process.get("terminal")),
        )

    async def before_exec(self, call: HookExec) -> None:
        """Writes `exec`."""
        self._write("exec", time.time(), call.container, process=call.process_id, **_what(call))

    async def failed(self, process: HookProcess, error: ShimError) -> None:
        """Writes `failed`."""
        told = {"status": error.code, "message": str(error)}
        self._write(
            "failed", time.time(), process.container, process=process.id, **_what(process), error=told
        )

    async def exited(self, process: HookProcess) -> None:
        """Writes `exit`."""
        ran = process.exited_at - process.started_at if process.started_at else 0.0
        self._write(
            "exit",
            process.exited_at,
            process.container,
            process=process.id,
            **_what(process),
            pid=process.pid,
            exit_status=process.exit_status,
            seconds=round(ran, 6),
        )

    def _write(self, event: str, at: float, container: HookContainer, **fields: object) -> None:
        when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {
            "time": when,
            "event": event,
            "namespace": container.namespace,
            "container": container.id,
            **fields,
        }
        if kubernetes := place(container):
            line["kubernetes"] = kubernetes
        # Text that is not Unicode, as arguments may be, is escaped.
        data = json.dumps(line).encode() + b"\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            # After one that did not fit, a new line: that one is lost, and no other.
            data = b"\n" + data if self._torn else data
            written = os.write(fd, data)
            self._torn = written < len(data)
            if self._torn:
                raise OSError(f"{self._path}: the disk is full")
            if self._sync:
                os.fsync(fd)
        finally:
            os.close(fd)


def _what(process: HookExec | HookProcess) -> dict[str, object]:
    user: User = process.user
    return {
        "exec_id": process.exec_id,
        "args": list(process.args),
        "cwd": process.cwd,
        "user": {"uid": user.uid, "gid": user.gid},
        "terminal": process.terminal,
    }
