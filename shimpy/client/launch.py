"""A shim as a child process: started, waited for until it answers, ended."""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
import sys
import tempfile
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shimpy import linux
from shimpy.client.connect import connected
from shimpy.client.container import delete_container
from shimpy.client.program import program
from shimpy.client.program_guard import ProgramGuard
from shimpy.client.rpc import settled
from shimpy.core.runtime.environment import environment, mark, unmarked
from shimpy.errors import ShimError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

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
) -> AsyncIterator[ShimClient]:
    """Runs `python -m shimpy` as a child process for the time of the block.

    The shim belongs to the block, and so does its container: at the end the container is killed
    and deleted, even if the shim has died, and the shim is ended. Should this program die, however
    that be, both are killed and removed within seconds, as with `shimpy.in_process`. A shim whose
    socket was named keeps running, with its container, for another program to `shimpy.connect` to; and
    so does one that is to be left running.

    What the shim logs goes to the logger `shimpy.shim`, as warnings.

    Args:
        socket: where it listens; None: in a private temporary directory.
        runtime: the OCI runtime, a name on PATH or an absolute path.
        root: where the runtime keeps its state (its `--root`); None: its default.
        log_level: what it logs: debug, info, warning or error.
        leave_running: leave a container that is there at the end, without a shim, instead of
            killing it; and with its shim when this program dies.
        timeout: seconds that the shim has to start.

    Raises:
        UnavailableError: it did not start; the message is what it said last.
    """
    options = LaunchOptions(socket, runtime, root, log_level, leave_running, timeout)
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

    @property
    def guarded(self) -> bool:
        """Whether the shim goes with this program."""
        return self.socket is None and not self.leave_running

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


class ShimStarter(Protocol):
    """Makes a shim's process."""

    async def __call__(self, arguments: list[str], notify: str, *, guarded: bool) -> ShimProcess:
        """Makes it.

        Args:
            arguments: of `python -m shimpy`.
            notify: the address that it reports readiness to.
            guarded: it goes with this program.
        """


@asynccontextmanager
async def shim_process(start: ShimStarter, options: LaunchOptions) -> AsyncIterator[ShimClient]:
    """Does what `launch` says, however a shim's process is made.

    Args:
        start: makes it.
        options: as they were given to `launch`.
    """
    root = None if options.root is None else os.path.abspath(options.root)
    guard = ProgramGuard(options.runtime, root) if options.guarded else None
    with nullcontext() if guard is None else guard, _directory(guard) as directory:
        path = f"{directory}/shim.sock" if options.socket is None else os.path.abspath(options.socket)
        arguments = ["--socket", path, "--runtime", options.runtime, "--log-level", options.log_level]
        arguments += options.root_arguments()
        child = await _Child.start(start, arguments, directory, options.timeout, guarded=options.guarded)
        try:
            async with connected(path, guard=guard) as client:
                try:
                    yield client
                finally:
                    if not options.leave_running and not await settled(_delete(client, options)) and guard:
                        guard.keep()
        finally:
            await settled(child.end())


@contextmanager
def _directory(guard: ProgramGuard | None) -> Iterator[str]:
    """Gives a private directory whose path leaves room for a socket's name."""
    if guard is not None:
        with program.folder() as directory:
            yield directory
        return
    fits = len(os.fsencode(tempfile.gettempdir())) <= linux.LONGEST_SOCKET_ADDRESS - 40
    parent = None if fits else "/tmp"  # noqa: S108 - a private directory is made there
    with tempfile.TemporaryDirectory(prefix="shimpy-", dir=parent) as directory:
        yield directory


async def _spawn(arguments: list[str], notify: str, *, guarded: bool) -> asyncio.subprocess.Process:
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
        env=unmarked() | {"NOTIFY_SOCKET": notify} | (mark if guarded else {}),
        start_new_session=True,
    )


async def _delete(client: ShimClient, options: LaunchOptions) -> bool:
    """Deletes the container, whatever has become of the shim; returns whether it is gone."""
    try:
        await delete_container(client)
    except UnavailableError:
        # The shim has died and its container has not: nothing else would delete it.
        if client.created is None:
            return True
        container, named = client.created
        command = [named or options.runtime, *options.root_arguments(), "delete", "--force", container]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment(),
        )
        try:
            return await asyncio.wait_for(process.wait(), _SHUTDOWN) == 0
        except TimeoutError:
            return False
    except ShimError as error:
        _log.warning("the container could not be deleted: %s", error)
        return False
    return True


class _Child:
    """The child process and what it says."""

    def __init__(self, process: ShimProcess) -> None:
        self._process = process
        self._ready = False
        self._lines: list[str] = []
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    async def start(
        cls, start: ShimStarter, arguments: list[str], directory: str, timeout: float, *, guarded: bool
    ) -> _Child:
        """Starts it, and returns once it says that it is ready (sd_notify(3))."""
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM | sockets.SOCK_NONBLOCK) as notify:
            address = f"{directory}/notify"
            notify.bind(address)
            process = await start(arguments, address, guarded=guarded)
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
