"""Shims forked from one warm process, for programs that start many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket as sockets
import sys
from typing import TYPE_CHECKING, Self

from shimpy.client.launch import LaunchOptions, shim_process
from shimpy.client.program_guard import note_shim
from shimpy.client.rpc import settled
from shimpy.core.runtime.environment import mark, unmarked
from shimpy.daemon.forkserver import END
from shimpy.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from shimpy.client.client import ShimClient
    from shimpy.client.model import StrPath
    from shimpy.core.registry import Entry

# Seconds that the warm process has to end by itself.
_SHUTDOWN = 5.0

# Seconds that it has to fork: it may still be importing.
_ANSWER = 10.0

# The exit status of a process that is not our child.
_UNKNOWN = 255


class WarmLauncher:
    """Launches shims several times as quickly as `shimpy.launch`, and in less memory.

    For example:

        async with shimpy.WarmLauncher() as warm:
            async with warm.launch() as client:
                print(await client.state())

    One process imports what a shim needs and then forks each shim, which shares that memory. They
    are separate processes in every other way: each has its own session, socket, signals and event
    loop, and is the child subreaper of its own container; when one dies, or the warm process, the
    others go on. The warm process ends with the block, or when this program dies; the shims then
    do as those of `shimpy.launch`.

    The environment of the shims is that of the time when the block was entered.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._control: sockets.socket | None = None
        # One at a time, so that no request waits in a socket that may be full.
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        if self._control is not None:
            raise RuntimeError("this launcher is in use already")
        control, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
        with theirs:
            try:
                control.setblocking(False)
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",
                    "-m",
                    "shimpy.daemon.forkserver",
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    env=unmarked(),
                    start_new_session=True,
                )
            except BaseException:
                control.close()
                raise
        self._control = control
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await settled(self._end())

    def launch(
        self,
        socket: StrPath | None = None,
        *,
        runtime: str = "runc",
        root: StrPath | None = None,
        log_level: str = "warning",
        leave_running: bool = False,
        timeout: float = 10.0,
        hooks: str | Sequence[str] = (),
    ) -> AbstractAsyncContextManager[ShimClient]:
        """Runs a shim for the time of the block; all is as with `shimpy.launch`.

        None has a keeper (`supervise`), which starts its shims itself, and so without what is shared here.

        Args:
            socket: where it listens; None: in a private temporary directory.
            runtime: the OCI runtime, a name on PATH or an absolute path.
            root: where the runtime keeps its state (its `--root`); None: its default.
            log_level: what it logs: debug, info, warning or error.
            leave_running: leave a container that is there at the end, without a shim, instead of
                killing it; and with its shim when this program dies.
            timeout: seconds that the shim has to start.
            hooks: what runs in the shim's process, by name.

        Raises:
            UnavailableError: it did not start, or the warm process has died.
        """
        options = LaunchOptions(socket, runtime, root, log_level, leave_running, timeout, hooks)
        return shim_process(self._fork, options)

    async def _fork(self, arguments: list[str], notify: str, *, guarded: bool) -> _Forked:
        said, stderr = os.pipe2(os.O_CLOEXEC)
        output = os.fdopen(said, "rb", 0)
        try:
            try:
                request = {"options": arguments, "notify": notify, "mark": mark if guarded else {}}
                pid, pidfd = await self._ask(json.dumps(request), stderr)
            except OSError as error:  # TimeoutError is one
                reason = error.strerror or "it does not answer"
                raise UnavailableError(f"the shim did not start: the warm process: {reason}") from error
            finally:
                os.close(stderr)
        except BaseException:
            output.close()
            raise
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        forked = _Forked(pidfd, reader, note_shim(pid) if guarded else None)
        try:
            await loop.connect_read_pipe(lambda: _Said(reader), output)
        except BaseException:
            forked.kill()
            await settled(forked.wait())
            raise
        return forked

    async def _ask(self, request: str, stderr: int) -> tuple[int, int]:
        """Has a shim forked and returns its pid and its pidfd."""
        if self._control is None:
            raise UnavailableError("the shim did not start: the launcher is not in use")
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()
        answer, theirs = sockets.socketpair()
        with answer:
            answer.setblocking(False)
            try:
                async with asyncio.timeout(_ANSWER), self._turn:
                    with theirs:
                        sockets.send_fds(self._control, [request.encode()], [stderr, theirs.fileno()])
                    loop.add_reader(answer, answered.set)
                    try:
                        await answered.wait()
                    finally:
                        loop.remove_reader(answer)
            except BaseException:
                theirs.close()
                # From here on the warm process cannot answer, and kills what it forks.
                answer.shutdown(sockets.SHUT_RD)
                with contextlib.suppress(UnavailableError, BlockingIOError):
                    _, pidfd = _receive(answer)
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    os.close(pidfd)
                raise
            return _receive(answer)

    async def _end(self) -> None:
        if self._control is None or self._process is None:
            return
        with contextlib.suppress(OSError):  # it is dead
            self._control.send(END)
        self._control.close()
        self._control = None
        try:
            await asyncio.wait_for(self._process.wait(), _SHUTDOWN)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _receive(answer: sockets.socket) -> tuple[int, int]:
    message, received, _, _ = sockets.recv_fds(answer, 4096, 1, sockets.MSG_CMSG_CLOEXEC)
    if not received:
        reason = message.decode(errors="replace") or "the warm process has died"
        raise UnavailableError(f"the shim did not start: {reason}")
    return int(message), received[0]


class _Said(asyncio.StreamReaderProtocol):
    """Closes what a shim says when it has said all."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False  # uvloop would leave the pipe open; asyncio closes it whatever is answered


class _Forked:
    """A shim that is not our child, with what `asyncio.subprocess.Process` would have of it."""

    def __init__(self, pidfd: int, stderr: asyncio.StreamReader, note: Entry | None) -> None:
        self.stderr = stderr
        self._note = note
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._died)

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    async def wait(self) -> int:
        await self._ended.wait()
        return _UNKNOWN

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._note is not None:
            self._note.remove()
        self.returncode = _UNKNOWN
        self._ended.set()
