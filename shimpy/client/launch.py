"""A shim as a child process: started, waited for until it answers, ended."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shimpy import linux
from shimpy.client.arguments import check_kinds, check_paths
from shimpy.client.connect import connected
from shimpy.client.container import delete_container
from shimpy.client.program import program
from shimpy.client.program_guard import ProgramGuard
from shimpy.client.rpc import seconds, settled
from shimpy.client.shim_process import SHUTDOWN, LaunchedShim, ShimStarter
from shimpy.core.runtime.environment import environment, mark, unmarked
from shimpy.errors import ShimError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from shimpy.client.client import ShimClient
    from shimpy.client.model import StrPath

_log = logging.getLogger("shimpy.shim")


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
    supervise: bool = False,
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
        hooks: what runs in the shim's process, each `module:name` of an object or class with hooks
            (`shimpy.Hooks`) that it can import, or the path of a TOML file that names some.
        supervise: keep it: a shim that dies is started again and loses nothing, and the client's calls and
            subscriptions go on; see `python -m shimpy --supervise`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: *timeout* is negative or NaN.
        UnavailableError: it did not start; the message is what it said last.
    """
    options = LaunchOptions(socket, runtime, root, log_level, leave_running, timeout, hooks, supervise)
    async with shim_process(_spawn, options) as client:
        yield client


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How a shim is launched; the fields are the arguments of `launch`.

    Raises:
        TypeError: one is of the wrong type.
        ValueError: the timeout is negative or NaN.
    """

    socket: StrPath | None
    runtime: str
    root: StrPath | None
    log_level: str
    leave_running: bool
    timeout: float
    hooks: str | Sequence[str] = ()
    supervise: bool = False

    def __post_init__(self) -> None:
        check_paths(socket=self.socket, root=self.root)
        check_kinds(str, runtime=self.runtime, log_level=self.log_level)
        check_kinds(bool, leave_running=self.leave_running, supervise=self.supervise)
        seconds(self.timeout)

    def hook_arguments(self) -> list[str]:
        """Returns the arguments that tell the shim its hooks."""
        given: Any = self.hooks
        names = given if isinstance(given, (list, tuple)) else [given]
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"hooks: {wrong[0]!r:.64} is not a string; another process needs module:name")
        return [f"--hooks={name}" for name in names]

    @property
    def guarded(self) -> bool:
        """Whether the shim goes with this program."""
        return self.socket is None and not self.leave_running

    def root_arguments(self) -> list[str]:
        """Returns the arguments that tell the shim, or its runtime, where state is kept."""
        return [] if self.root is None else ["--root", os.fspath(self.root)]


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
        arguments += options.hook_arguments()
        arguments += options.root_arguments()
        if options.supervise:
            arguments.append("--supervise")
        child = await LaunchedShim.start(
            start, arguments, directory, options.timeout, guarded=options.guarded
        )
        try:
            async with connected(path, guard=guard) as client:
                try:
                    yield client
                finally:
                    if not options.leave_running and not await settled(_delete(client, options)) and guard:
                        guard.keep()
        finally:
            await settled(child.end())
            if options.guarded:
                from shimpy.core.journal import JournalDirectory

                # A shim that was killed leaves it, and nobody starts another in its directory.
                JournalDirectory.of_socket(path).remove()


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
            return await asyncio.wait_for(process.wait(), SHUTDOWN) == 0
        except TimeoutError:
            return False
    except ShimError as error:
        _log.warning("the container could not be deleted: %s", error)
        return False
    return True
