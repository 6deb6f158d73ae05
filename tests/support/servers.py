"""Real `python -m shimpy` processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpclib.client import Channel

from shimpy.api import ShimStub
from shimpy.core.journal import JournalDirectory
from tests.support.holders import Holder
from tests.support.machine import RUNTIME
from tests.support.time_scale import scaled

_TEMPORARY = tempfile.gettempdir()


class Server:
    """A shim in a process of its own, with a directory of its own.

    Args:
        arguments: further arguments of `python -m shimpy`.
        environment: variables to add.
        before: a command line to put before, such as `nice` or `setpriv --reuid 1000`.
        holder: holds its file descriptors.
        python: the interpreter.
        options: further arguments of Popen, such as umask.
    """

    def __init__(
        self,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        holder: Holder | None = None,
        python: str = sys.executable,
        **options: Any,
    ) -> None:
        command = [python, "-m", "shimpy"]
        if RUNTIME != "runc":
            command += ["--runtime", RUNTIME]
        # Not the test's own directory: its path may be longer than what a socket's address holds.
        self._directory = tempfile.TemporaryDirectory(prefix="shimpy-test-", dir=_TEMPORARY)
        self.directory = Path(self._directory.name)
        self.socket = self.directory / "shim.sock"
        self._log = self.directory / "stderr"
        self._channels: list[Channel] = []
        self._command = [*before, *command, "--socket", str(self.socket), *arguments]
        self._options = {**options, "env": {**os.environ, **(environment or {})}}
        self._holder = holder
        self._start()

    def _start(self) -> None:
        command, options = self._command, self._options
        if (holder := self._holder) is not None:
            command = holder.command(command)
            options = {**options, "env": options["env"] | holder.environment, "pass_fds": holder.fds.values()}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, **options)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends it by a signal, and waits for that."""
        self.process.send_signal(number)
        self.process.wait(scaled(10))

    def start_again(self, *, listens: bool = True) -> None:
        """Starts another shim on the same socket, once this one has ended.

        Args:
            listens: wait until it does.
        """
        self._start()
        if listens:
            self.wait_until_it_listens()

    @property
    def pid(self) -> int:
        """The process id of the shim."""
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What it has written to its stderr so far."""
        return self._log.read_text(errors="replace")

    def wait_until_it_listens(self, *, within: float = 20) -> None:
        """Returns when its socket takes connections.

        Args:
            within: seconds until the test fails.
        """
        within = scaled(within)
        end = time.monotonic() + within
        while True:
            with socket.socket(socket.AF_UNIX) as client:
                if client.connect_ex(str(self.socket)) == 0:
                    return
            assert self.process.poll() is None, f"exit status {self.process.returncode}: {self.stderr}"
            assert time.monotonic() < end, f"does not listen within {within} s: {self.stderr}"
            time.sleep(0.005)

    def channel(self) -> Channel:
        """Returns a new connection to it; closed with the server."""
        channel = Channel(path=str(self.socket))
        self._channels.append(channel)
        return channel

    def stub(self) -> ShimStub:
        """Returns a client on a new connection."""
        return ShimStub(self.channel())

    def terminate(self, *, within: float = 10) -> int:
        """Sends SIGTERM, waits for the end and returns the exit status.

        Args:
            within: seconds until the test fails.
        """
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(scaled(within))

    async def terminated(self, *, within: float = 10) -> int:
        """Does what `terminate` does while the test's own event loop goes on."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, scaled(within))

    def close(self) -> None:
        """Ends it and removes its directory; fails if there is a traceback in its stderr."""
        for channel in self._channels:
            channel.close()
        try:
            if self.process.poll() is None:
                self.terminate()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            stderr = self.stderr
            JournalDirectory.of_socket(str(self.socket)).remove()  # a shim that was killed leaves it
            self._directory.cleanup()
        assert "Traceback" not in stderr, stderr
