"""The OCI runtime's commands: one thin coroutine for each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from shimpy.core.reaper import Reaper
from shimpy.core.runtime.environment import clean_prefix, environment
from shimpy.core.runtime.files import MAX_LOG, CommandFiles
from shimpy.core.runtime.log_errors import not_started, refused
from shimpy.errors import FailedPreconditionError, InternalError, InvalidArgumentError, NotFoundError

UMASK = 0o022

# Where the runtimes keep their state when --root is not given and they run as root.
STATE_ROOTS = {"runc": "/run/runc", "crun": "/run/crun", "youki": "/run/youki"}


_NO_STDIO = (subprocess.DEVNULL,) * 3


class Runc:
    """runc, or a runtime that takes its command line.

    Args:
        name: a name on PATH, or an absolute path.
        root: the directory of the runtime's state (its --root), None for its default.
        reaper: starts the commands and waits for them.
        systemd_cgroup: have systemd make the cgroups (its --systemd-cgroup).

    Raises:
        InvalidArgumentError: it is neither a name nor an absolute path, or not an executable file.
        NotFoundError: there is no such file.
    """

    def __init__(self, name: str, root: str | None, reaper: Reaper, *, systemd_cgroup: bool = False) -> None:
        self.name = name
        self._path = find_runtime(name)
        self._root = root
        self._systemd_cgroup = systemd_cgroup
        self._reaper = reaper

    async def create(
        self,
        container_id: str,
        bundle: str,
        stdio: tuple[int, int, int],
        *,
        console_socket: str | None = None,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        sets_oom_score: bool = False,
    ) -> int:
        options = [f"--bundle={bundle}"]
        if no_pivot:
            options.append("--no-pivot")
        if no_new_keyring:
            options.append("--no-new-keyring")
        with CommandFiles(self._reaper.directories) as files:
            options.append(f"--pid-file={files.make_pid()}")
            prefix = clean_prefix(sets_oom_score=sets_oom_score)
            await self._detach(files, prefix, "create", options, container_id, stdio, console_socket)
            return files.read_pid(self.name)

    async def start(self, container_id: str) -> None:
        await self._run("start", container_id)

    async def exec(
        self,
        container_id: str,
        process: Mapping[str, Any],
        stdio: tuple[int, int, int],
        *,
        console_socket: str | None = None,
        extra: Sequence[str] = (),
        sets_oom_score: bool = False,
    ) -> int:
        with CommandFiles(self._reaper.directories) as files:
            told = [f"--process={files.make_json(process)}", f"--pid-file={files.make_pid()}"]
            options = ["--detach", *told, *extra]
            # Of the spec's umask runc takes note for init only; an exec has that of the command.
            umask = (process.get("user") or {}).get("umask")
            umask = UMASK if umask is None else umask & 0o777
            # crun sets the score of init alone.
            prefix = clean_prefix(sets_oom_score=sets_oom_score and os.path.basename(self._path) == "runc")
            await self._detach(files, prefix, "exec", options, container_id, stdio, console_socket, umask)
            return files.read_pid(self.name)

    async def pause(self, container_id: str) -> None:
        await self._run("pause", container_id)

    async def resume(self, container_id: str) -> None:
        await self._run("resume", container_id)

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        await self._run("delete", *(["--force"] if force else []), container_id)

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        with CommandFiles(self._reaper.directories) as files:
            await self._call(
                files, [], "update", [f"--resources={files.make_json(resources)}", container_id], _NO_STDIO
            )

    async def checkpoint(self, container_id: str, options: Sequence[str]) -> None:
        await self._run("checkpoint", *options, container_id)

    async def restore(
        self,
        container_id: str,
        bundle: str,
        stdio: tuple[int, int, int],
        *,
        console_socket: str | None = None,
        options: Sequence[str] = (),
    ) -> int:
        with CommandFiles(self._reaper.directories) as files:
            # Who waits for what CRIU has forked is this process, not the runtime.
            told = ["--detach", "--no-subreaper", f"--pid-file={files.make_pid()}", f"--bundle={bundle}"]
            prefix, options = clean_prefix(), [*told, *options]
            await self._detach(files, prefix, "restore", options, container_id, stdio, console_socket)
            return files.read_pid(self.name)

    async def version(self) -> str:
        return (await self._ask("--version")).decode(errors="replace")

    async def state(self, container_id: str) -> dict[str, Any]:
        text = await self._ask("state", container_id)
        try:
            state = json.loads(text)
        except (ValueError, RecursionError):
            state = None
        if not isinstance(state, dict):
            raise InternalError(f"{self.name} state returned no state for container {container_id}")
        return state

    def recorded(self) -> dict[str, Any]:
        return {"name": self._path, "root": self._root, "systemd_cgroup": self._systemd_cgroup}

    def state_directory(self, container_id: str) -> str | None:
        root = self._root
        if root is None:
            root = STATE_ROOTS.get(os.path.basename(self._path))
        return None if root is None else os.path.join(root, container_id)

    async def _run(self, command: str, *arguments: str) -> None:
        with CommandFiles(self._reaper.directories) as files:
            await self._call(files, [], command, arguments, _NO_STDIO)

    async def _ask(self, command: str, *arguments: str) -> bytes:
        nothing = subprocess.DEVNULL
        with CommandFiles(self._reaper.directories) as files:
            output = files.capture()
            await self._call(files, [], command, arguments, (nothing, output.fileno(), nothing))
            output.seek(0)
            return output.read(MAX_LOG)

    async def _detach(
        self,
        files: CommandFiles,
        prefix: Sequence[str],
        command: str,
        options: list[str],
        container_id: str,
        stdio: tuple[int, int, int],
        console_socket: str | None,
        umask: int = UMASK,
    ) -> None:
        if console_socket is not None:
            options.append(f"--console-socket={console_socket}")
        await self._call(files, prefix, command, [*options, container_id], stdio, umask)

    async def _call(
        self,
        files: CommandFiles,
        prefix: Sequence[str],
        command: str,
        arguments: Sequence[str],
        stdio: tuple[int, int, int],
        umask: int = UMASK,
    ) -> None:
        argv = [*prefix, self._path]
        if self._root is not None:
            argv += ["--root", self._root]
        if self._systemd_cgroup:
            argv.append("--systemd-cgroup")
        argv += ["--log", files.log, "--log-format", "json", command, *arguments]
        try:
            code = await self._complete(argv, stdio, umask)
        except OSError as error:
            missing = NotFoundError if command == "create" else FailedPreconditionError
            raise not_started(self.name, error, missing=missing) from error
        if code != 0:
            raise refused(self.name, command, code, files.read_log())

    async def _complete(self, argv: Sequence[str], stdio: tuple[int, int, int], umask: int) -> int:
        command = self._reaper.spawn(
            *argv,
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            env=environment(),
            umask=umask,
            # A group to kill, but not a session: a new session is a new scheduling group too
            # (sched(7), autogroup), in which a short command waits long on a busy machine.
            process_group=0,
        )
        try:
            return await self._reaper.wait(command)
        except asyncio.CancelledError:
            # With its group, because the runtime's own helper processes are where a command hangs.
            await self._reaper.kill(command)
            raise


def find_runtime(name: str) -> str:
    """Returns the absolute path of a runtime.

    Args:
        name: a name that is looked for on PATH, or an absolute path.

    Raises:
        InvalidArgumentError: it is neither, or not an executable file.
        NotFoundError: there is none.
    """
    if not name or name.startswith("-") or not name.isprintable() or ("/" in name and name[0] != "/"):
        raise InvalidArgumentError(f"runtime: {name!r} is neither a name on PATH nor an absolute path")
    if name in (".", ".."):
        raise InvalidArgumentError(f"runtime: {name!r} is not the name of a program")
    for directory in dict.fromkeys(os.get_exec_path()):
        # Joined with a directory, an absolute path stays what it is. Nor is it tidied up: `link/..` is
        # not where the link is.
        path = os.path.join(directory, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            if os.path.isabs(path):
                return path
            # A current directory that is removed has no path any more, though `..` still leads out of it.
            with contextlib.suppress(FileNotFoundError):
                return os.path.join(os.getcwd(), path)
    if name.startswith("/") and os.path.exists(name):
        raise InvalidArgumentError(f"runtime: {name} is not an executable file")
    where = "" if name.startswith("/") else " on PATH"
    raise NotFoundError(f"runtime: there is no {name}{where}; install it, or choose another")
