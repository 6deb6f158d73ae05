"""The OCI runtime's commands: one thin coroutine for each."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Protocol, Self

from . import scratch
from .errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ShimError,
)
from .reaper import Reaper

MAX_MESSAGE = 1024
"""Characters of the runtime's own words that are passed on: a status travels in HTTP/2 headers."""

MAX_LOG = 256 * 1024
"""Bytes of a runtime's log that are read, from its end: the last error is what counts."""

MAX_LOG_LINES = 1024
"""Lines of it that are looked at: as many as MAX_LOG holds would hold up the event loop for a second."""

UMASK = 0o022

_CUT = " ... "

# Where the runtimes keep their state when --root is not given and they run as root.
_STATE_ROOTS = {"runc": "/run/runc", "crun": "/run/crun", "youki": "/run/youki"}

# What a supervisor told this process about itself. runc takes NOTIFY_SOCKET and LISTEN_FDS as
# meant for the container and would proxy the one and pass on the other.
_PRIVATE_ENVIRONMENT = (
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)

# The first that a message contains decides. The words are those of runc 1.1-1.3 and crun 1.x.
_REFUSALS: tuple[tuple[str, type[ShimError]], ...] = (
    ("already exists", AlreadyExistsError),
    ("no space left on device", ResourceExhaustedError),
    ("disk quota exceeded", ResourceExhaustedError),
    ("cannot allocate memory", ResourceExhaustedError),
    ("resource temporarily unavailable", ResourceExhaustedError),
    ("too many open files", ResourceExhaustedError),
    ("file name too long", InvalidArgumentError),
    ("executable file not found", NotFoundError),
    ("no such file or directory", NotFoundError),
    ("permission denied", PermissionDeniedError),
    ("is a directory", PermissionDeniedError),
    ("operation not permitted", PermissionDeniedError),
    ("paused container", FailedPreconditionError),
    ("stopped container", FailedPreconditionError),
    ("container not running", FailedPreconditionError),
    ("container is not running", FailedPreconditionError),
    ("does not exist", NotFoundError),
)

# What Python itself ignores, and gives back to the children that it starts; as bits of a signal mask.
_IGNORED_BY_PYTHON = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1

# Undoes, for the container, what this process inherited or was told about itself. Signals that
# are ignored or blocked stay so across execve(2), and only a program can undo that.
_RESET_SIGNALS = """
import os, signal, sys
for number in signal.valid_signals():
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
os.execvp(sys.argv[1], sys.argv[1:])
"""
_RESET_OOM_SCORE = 'echo 0 2>/dev/null >/proc/self/oom_score_adj; exec "$0" "$@"'


class Runtime(Protocol):
    """What a container needs of an OCI runtime; every call is one command of it.

    Each raises ShimError when the runtime refuses, with the runtime's own last error message, and
    kills the command with its whole process group when it is cancelled.
    """

    name: str

    async def create(
        self,
        container_id: str,
        bundle: str,
        stdio: tuple[int, int, int],
        *,
        console_socket: str | None = None,
        no_pivot: bool = False,
    ) -> int:
        """Creates a container and returns the pid of its init process.

        Args:
            container_id: the container's id.
            bundle: the bundle's folder.
            stdio: the descriptors that become 0, 1 and 2 of the container's process.
            console_socket: where to send the terminal's master to.
            no_pivot: do not use pivot_root(2).
        """

    async def start(self, container_id: str) -> None:
        """Lets a created container's process run."""

    async def exec(
        self,
        container_id: str,
        process: Mapping[str, Any],
        stdio: tuple[int, int, int],
        *,
        console_socket: str | None = None,
        extra: Sequence[str] = (),
    ) -> int:
        """Starts one more process and returns its pid.

        Args:
            container_id: the container's id.
            process: the `process` object of the OCI runtime-spec.
            stdio: the descriptors that become 0, 1 and 2 of the process.
            console_socket: where to send the terminal's master to.
            extra: further arguments, such as the cgroup to start it in.
        """

    async def pause(self, container_id: str) -> None:
        """Freezes every process of a container."""

    async def resume(self, container_id: str) -> None:
        """Thaws every process of a container."""

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        """Removes what the runtime holds of a container; `force` kills it first."""

    async def state(self, container_id: str) -> dict[str, Any]:
        """Returns what the runtime says of a container: the runtime-spec's `state` object."""

    def state_directory(self, container_id: str) -> str | None:
        """Returns the folder in which the runtime keeps what it knows of a container, if that is known."""


class Runc:
    """runc, or a runtime that takes its command line.

    Args:
        name: a name on PATH, or an absolute path.
        root: the folder of the runtime's state (its --root), None for its default.
        reaper: starts the commands and waits for them.

    Raises:
        InvalidArgumentError: it is neither a name nor an absolute path, or not an executable file.
        NotFoundError: there is no such file.
    """

    def __init__(self, name: str, root: str | None, reaper: Reaper) -> None:
        self.name = name
        self._path = find_runtime(name)
        self._root = root
        self._reaper = reaper

    async def create(
        self,
        container_id: str,
        bundle: str,
        stdio: tuple[int, int, int],
        *,
        console_socket: str | None = None,
        no_pivot: bool = False,
    ) -> int:
        options = [f"--bundle={bundle}"]
        if no_pivot:
            options.append("--no-pivot")
        with _Files() as files:
            options.append(f"--pid-file={files.pid}")
            await self._detach(files, "create", options, container_id, stdio, console_socket)
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
    ) -> int:
        with _Files() as files:
            files.write_process(process)
            options = ["--detach", f"--process={files.process}", f"--pid-file={files.pid}", *extra]
            # Of the spec's umask runc takes note for init only; an exec has that of the command.
            umask = (process.get("user") or {}).get("umask")
            umask = UMASK if umask is None else umask & 0o777
            await self._detach(files, "exec", options, container_id, stdio, console_socket, umask)
            return files.read_pid(self.name)

    async def pause(self, container_id: str) -> None:
        await self._run("pause", container_id)

    async def resume(self, container_id: str) -> None:
        await self._run("resume", container_id)

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        await self._run("delete", *(["--force"] if force else []), container_id)

    async def version(self) -> str:
        """Returns what the runtime prints of its version."""
        return (await self._ask("--version")).decode(errors="replace")

    async def state(self, container_id: str) -> dict[str, Any]:
        text = await self._ask("state", container_id)
        try:
            state = json.loads(text)
        except (ValueError, RecursionError):
            state = None
        if not isinstance(state, dict):
            raise InternalError(f"{self.name} state told no state of container {container_id}")
        return state

    def state_directory(self, container_id: str) -> str | None:
        root = self._root
        if root is None:
            root = _STATE_ROOTS.get(os.path.basename(self._path))
        return None if root is None else os.path.join(root, container_id)

    async def _run(self, command: str, *arguments: str) -> None:
        with _Files() as files:
            nothing = asyncio.subprocess.DEVNULL
            await self._call(files, [], command, arguments, (nothing, nothing, nothing))

    async def _ask(self, command: str, *arguments: str) -> bytes:
        nothing = asyncio.subprocess.DEVNULL
        with _Files() as files, files.capture() as output:
            await self._call(files, [], command, arguments, (nothing, output.fileno(), nothing))
            output.seek(0)
            return output.read(MAX_LOG)

    async def _detach(
        self,
        files: _Files,
        command: str,
        options: list[str],
        container_id: str,
        stdio: tuple[int, int, int],
        console_socket: str | None,
        umask: int = UMASK,
    ) -> None:
        if console_socket is not None:
            options.append(f"--console-socket={console_socket}")
        await self._call(files, _clean_surroundings(), command, [*options, container_id], stdio, umask)

    async def _call(
        self,
        files: _Files,
        prefix: Sequence[str],
        command: str,
        arguments: Sequence[str],
        stdio: tuple[int, int, int],
        umask: int = UMASK,
    ) -> None:
        argv = [*prefix, self._path]
        if self._root is not None:
            argv += ["--root", self._root]
        argv += ["--log", files.log, "--log-format", "json", command, *arguments]
        try:
            code = await self._complete(argv, stdio, umask)
        except OSError as error:
            raise _not_started(self.name, error) from error
        if code != 0:
            raise _refused(self.name, command, code, files.read_log())

    async def _complete(self, argv: Sequence[str], stdio: tuple[int, int, int], umask: int) -> int:
        spawning = asyncio.ensure_future(
            self._reaper.spawn(
                *argv,
                stdin=stdio[0],
                stdout=stdio[1],
                stderr=stdio[2],
                env=_environment(),
                umask=umask,
                # A group to kill, but not a session: a new session is a new scheduling group too
                # (sched(7), autogroup), in which a short command waits long on a busy machine.
                process_group=0,
            )
        )
        try:
            process = await asyncio.shield(spawning)
            return await self._reaper.wait(process)
        except asyncio.CancelledError:
            # A spawn is never left half way: without its pid there would be nothing to kill. The
            # group, because the runtime's own helper processes are where a command hangs.
            await self._reaper.kill(await spawning)
            raise


class _Files:
    """The files of one command, in a private folder that goes with it."""

    def __init__(self) -> None:
        try:
            self._folder = scratch.make_folder()
        except OSError as error:
            raise ResourceExhaustedError(
                f"cannot make a temporary folder in {scratch.place()}: {error.strerror}"
            ) from error
        self.log = os.path.join(self._folder, "log")
        self.pid = os.path.join(self._folder, "pid")
        self.process = os.path.join(self._folder, "process")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        scratch.remove_folder(self._folder)

    def capture(self) -> BinaryIO:
        """Returns a new file for what a command prints."""
        return open(os.path.join(self._folder, "output"), "x+b")

    def write_process(self, process: Mapping[str, Any]) -> None:
        try:
            with open(self.process, "x", encoding="utf-8") as file:
                json.dump(process, file)
        except OSError as error:
            raise ResourceExhaustedError(f"cannot write {self.process}: {error.strerror}") from error

    def read_pid(self, runtime: str) -> int:
        try:
            with open(self.pid, "rb") as file:
                text = file.read(32).strip()
        except OSError as error:
            raise InternalError(f"{runtime} succeeded but wrote no pid file: {error.strerror}") from error
        # Two is the least that can be our child: 1 is the system's init or that of our namespace.
        if not text.isdigit() or not 1 < int(text) <= 2**22:
            raise InternalError(f"{runtime} succeeded but wrote no pid into its pid file: {text!r}")
        return int(text)

    def read_log(self) -> bytes:
        try:
            with open(self.log, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - MAX_LOG))
                return file.read(MAX_LOG)
        except OSError:
            return b""


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
    for folder in os.get_exec_path():
        # Joined with a folder, an absolute path stays what it is.
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    if name.startswith("/") and os.path.exists(name):
        raise InvalidArgumentError(f"runtime: {name} is not an executable file")
    where = "" if name.startswith("/") else " on PATH"
    raise NotFoundError(f"runtime: there is no {name}{where}; install it, or name another one")


def last_error(log: bytes) -> str:
    """Returns the message of the last error in a runtime's log, or "" when it tells of none.

    Args:
        log: what a runtime wrote with `--log-format json`: a JSON object on each line, possibly
            cut off, mixed with other text, or garbage.

    Returns:
        At most MAX_MESSAGE printable characters.
    """
    for line in reversed(log.splitlines()[-MAX_LOG_LINES:]):
        try:
            # Not every runtime makes its messages, which may quote any path, UTF-8.
            entry = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal", "panic"):
            message = entry.get("msg")
            if isinstance(message, str) and message.strip():
                return _printable(message)
    return ""


def _printable(text: str) -> str:
    words = " ".join(text.split())
    if len(words) > MAX_MESSAGE:
        # Errors are told from the outside in: the cause stands last.
        half = (MAX_MESSAGE - len(_CUT)) // 2
        words = words[:half] + _CUT + words[-half:]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in words)


def _refused(runtime: str, command: str, code: int, log: bytes) -> ShimError:
    if code < 0:
        what = f"{runtime} {command} was killed by signal {-code}"
    else:
        what = f"{runtime} {command} failed with exit status {code}"
    message = last_error(log)
    if not message:
        return InternalError(f"{what} and left no error message in its log")
    lowered = message.lower()
    for words, error in _REFUSALS:
        if words in lowered:
            return error(f"{what}: {message}")
    return InternalError(f"{what}: {message}")


def _not_started(runtime: str, error: OSError) -> ShimError:
    what = f"{runtime} cannot be started: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return NotFoundError(what)
    if isinstance(error, PermissionError):
        return PermissionDeniedError(what)
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.ENOSPC):
        return ResourceExhaustedError(what)
    return InternalError(what)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in _PRIVATE_ENVIRONMENT}


def _clean_surroundings() -> list[str]:
    """Returns the command that has to stand before the runtime's, so that what it starts begins clean.

    Nothing, in a process whose signals and OOM score are as usual: each of these costs a start of
    its own. Descriptors, umask and the signals that Python itself ignores are the spawn's business.
    """
    prefix: list[str] = []
    if _signals_are_off():
        prefix += [sys.executable, "-I", "-S", "-c", _RESET_SIGNALS]
    if _oom_score_adj() != 0:
        prefix += ["/bin/sh", "-c", _RESET_OOM_SCORE]
    return prefix


def _signals_are_off() -> bool:
    """Whether a child of this thread would begin with signals blocked, or ignored by more than Python."""
    with open("/proc/thread-self/status", "rb") as file:
        masks = dict(line.split(b":\t") for line in file if line.startswith((b"SigBlk", b"SigIgn")))
    ignored = int(masks[b"SigIgn"], 16) & ~_IGNORED_BY_PYTHON
    return bool(ignored or int(masks[b"SigBlk"], 16))


def _oom_score_adj() -> int:
    try:
        with open("/proc/self/oom_score_adj", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
