"""A shim's process, and what it says."""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
from contextlib import suppress
from typing import Protocol

from shimpy.client.rpc import settled
from shimpy.errors import UnavailableError

_log = logging.getLogger("shimpy.shim")

# Seconds from SIGTERM to SIGKILL; a shim takes at most 3.
SHUTDOWN = 5.0

# Bytes of a line of the shim's log that are kept.
_LINE = 1 << 13


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


class LaunchedShim:
    """The child process and what it says."""

    def __init__(self, process: ShimProcess) -> None:
        self._process = process
        self._ready = False
        self._lines: list[str] = []
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    async def start(
        cls, start: ShimStarter, arguments: list[str], directory: str, timeout: float, *, guarded: bool
    ) -> LaunchedShim:
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
        """Sends SIGTERM, then SIGKILL after SHUTDOWN seconds."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), SHUTDOWN)
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
