"""A shim as a child process: started, waited for until it answers, ended."""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from shimpy import linux
from shimpy.client.connect import connect
from shimpy.client.container import delete_container
from shimpy.client.rpc import settled
from shimpy.errors import ShimError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from shimpy.client.client import ShimClient
    from shimpy.client.model import StrPath

_log = logging.getLogger("shimpy.shim")

# Seconds from SIGTERM to SIGKILL; a shim takes at most 3.
_SHUTDOWN = 5.0

# Bytes of a line of the shim's log that are kept.
_LINE = 1 << 13


@asynccontextmanager
async def launch(
    socket: StrPath | None = None,
    *,
    runtime: str = "runc",
    root: StrPath | None = None,
    log_level: str = "warning",
    leave_running: bool = False,
    timeout: float = 10.0,
    hooks: str | Sequence[str] = (),
) -> AsyncIterator[ShimClient]:
    """Runs `python -m shimpy` as a child process for the time of the block.

    The shim belongs to the block, and so does its container: at the end the container is killed
    and deleted, even if the shim has died, and the shim is ended. A shim whose launcher is killed
    keeps running, with its container; a program that named the socket can `shimpy.connect` to it.

    What the shim logs goes to the logger `shimpy.shim`, as warnings.

    Args:
        socket: where it listens; None: in a private temporary directory.
        runtime: the OCI runtime, a name on PATH or an absolute path.
        root: where the runtime keeps its state (its `--root`); None: its default.
        log_level: what it logs: debug, info, warning or error.
        leave_running: leave a container that is there at the end, without a shim, instead of
            killing it.
        timeout: seconds that the shim has to start.
        hooks: what runs in the shim's process, each `module:name` of an object or class with hooks
            (`shimpy.Hooks`) that it can import, or the path of a TOML file that names some.

    Raises:
        UnavailableError: it did not start; the message is what it said last.
    """
    options = LaunchOptions(socket, runtime, root, log_level, leave_running, timeout, hooks)
    async with shim_process(_spawn, options) as client:
        yield client


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How a shim is launched; the fields are the arguments of `launch`."""

    socket: StrPath | None
    runtime: str
    root: StrPath | None
    log_level: str
    leave_running: bool
    timeout: float
    hooks: str | Sequence[str] = ()

    def hook_arguments(self) -> list[str]:
        """Returns the arguments that tell the shim its hooks."""
        given: Any = self.hooks
        names = given if isinstance(given, (list, tuple)) else [given]
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"hooks: {wrong[0]!r:.64} is not a string; another process needs module:name")
        return [f"--hooks={name}" for name in names]

    def root_arguments(self) -> list[str]:
        """Returns the arguments that tell the shim, or its runtime, where state is kept."""
        return [] if self.root is None else ["--root", os.fspath(self.root)]


class ShimProcess(Protocol):
    """A shim's process: what `asyncio.subprocess.Process` has, as far as it is needed here."""

    @property
    def returncode(self) -> int | None:
        """None while it lives."""

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        """What it says."""

    def terminate(self) -> None:
        """Sends SIGTERM."""

    def kill(self) -> None:
        """Sends SIGKILL."""

    async def wait(self) -> int:
        """Waits for its end."""


@asynccontextmanager
async def shim_process(
    start: Callable[[list[str], str], Awaitable[ShimProcess]], options: LaunchOptions
) -> AsyncIterator[ShimClient]:
    """Does what `launch` says, however a shim's process is made.

    Args:
        start: makes it from the shim's arguments and the address that it reports readiness to.
        options: as they were given to `launch`.
    """
    # Room for the directory's own name and the socket's.
    fits = len(os.fsencode(tempfile.gettempdir())) <= linux.LONGEST_SOCKET_ADDRESS - 40
    parent = None if fits else "/tmp"  # noqa: S108 - a private directory is made there
    with tempfile.TemporaryDirectory(prefix="shimpy-", dir=parent) as directory:
        path = f"{directory}/shim.sock" if options.socket is None else os.path.abspath(options.socket)
        arguments = ["--socket", path, "--runtime", options.runtime, "--log-level", options.log_level]
        arguments += options.hook_arguments()
        child = await _Child.start(start, [*arguments, *options.root_arguments()], directory, options.timeout)
        try:
            async with connect(path) as client:
                try:
                    yield client
                finally:
                    if not options.leave_running:
                        await settled(_delete(client, options))
        finally:
            await settled(child.end())


async def _spawn(arguments: list[str], notify: str) -> asyncio.subprocess.Process:
    # A session of its own: Ctrl-C in this terminal is for this program to act upon.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "shimpy",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NOTIFY_SOCKET": notify},
        start_new_session=True,
    )


async def _delete(client: ShimClient, options: LaunchOptions) -> None:
    try:
        await delete_container(client)
    except UnavailableError:
        # The shim has died and its container has not: nothing else would delete it.
        if client.created is None:
            return
        container, named = client.created
        command = [named or options.runtime, *options.root_arguments(), "delete", "--force", container]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _SHUTDOWN)
    except ShimError as error:
        _log.warning("the container could not be deleted: %s", error)


class _Child:
    """The child process and what it says."""

    def __init__(self, process: ShimProcess) -> None:
        self._process = process
        self._ready = False
        self._lines: list[str] = []
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    async def start(
        cls,
        start: Callable[[list[str], str], Awaitable[ShimProcess]],
        arguments: list[str],
        directory: str,
        timeout: float,
    ) -> _Child:
        """Starts it, and returns once it says that it is ready (sd_notify(3))."""
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM | sockets.SOCK_NONBLOCK) as notify:
            address = f"{directory}/notify"
            notify.bind(address)
            process = await start(arguments, address)
            child = cls(process)
            try:
                await child._started(notify, timeout)
            except BaseException:
                await settled(child.end())
                raise
            return child

    async def _started(self, notify: sockets.socket, timeout: float) -> None:
        ready = asyncio.ensure_future(_wait_ready(notify))
        died = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({ready, died}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            died.cancel()
        if self._process.returncode is not None:
            await self._listening
            said = self._lines[-1] if self._lines else f"exit status {self._process.returncode}"
            raise UnavailableError(f"the shim did not start: {said}")
        if not ready.done() or ready.cancelled():
            raise UnavailableError(f"the shim did not start within {timeout:g} seconds")
        self._ready = True
        for line in self._lines:
            _log.warning("%s", line)
        self._lines.clear()

    async def _listen(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None  # noqa: S101 - it was asked for
        rest = b""
        while data := await stderr.read(_LINE):
            *lines, rest = (rest + data).split(b"\n")
            self._say(lines)
            rest = rest[-_LINE:]
        self._say([rest])

    def _say(self, lines: list[bytes]) -> None:
        for line in filter(None, lines):
            text = line.decode(errors="replace")
            if self._ready:
                _log.warning("%s", text)
            else:
                self._lines = [*self._lines[-99:], text]

    async def end(self) -> None:
        """Sends SIGTERM, then SIGKILL after _SHUTDOWN seconds."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _SHUTDOWN)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        # Whatever else might hold its stderr is not waited for.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._listening, 1)


async def _wait_ready(notify: sockets.socket) -> None:
    loop = asyncio.get_running_loop()
    while b"READY=1" not in (await loop.sock_recv(notify, 4096)).split(b"\n"):
        pass
