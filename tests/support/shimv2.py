"""The command that containerd calls, called as containerd does."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from shimpy.api import bootstrap, task, well_known
from shimpy.transport.ttrpc import Client, connect
from tests.support.leaks import alive, eventually

COMMAND = (sys.executable, "-I", "-m", "shimpy.daemon.containerd")
TASK = "containerd.task.v2.Task"


class Shims:
    """Starts shims for containers below one directory, and ends them.

    Args:
        directory: for the bundles, and for the sockets.

    Attributes:
        namespace: containerd's.
        address: what is said to be the address of containerd's socket.
        sockets: where the sockets are to be.
        fork_server: the directory of the fork servers, or "off".
        program: the command, without its arguments.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.namespace = f"shimpy-test-{os.getpid()}"
        self.address = str(directory / "containerd.sock")
        self.sockets = directory / "s"
        self.fork_server = "off"
        self.program: tuple[str, ...] = COMMAND
        self._paths: set[str] = set()

    def bundle(self, container_id: str, config: Mapping[str, Any] | None = None) -> Path:
        """Makes a bundle of little more than a config.json."""
        bundle = self.directory / container_id
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(config or {}))
        os.mkfifo(bundle / "log")
        return bundle

    def params(self, container_id: str, **fields: Any) -> bytes:
        """Returns what containerd 2.3 writes to a start's stdin."""
        fields = {"socket_dir": str(self.sockets), **fields}
        return bytes(bootstrap.BootstrapParams(instance_id=container_id, namespace=self.namespace, **fields))

    def command(self, container_id: str, *action: str) -> list[str]:
        """Returns a command line."""
        names = ["-namespace", self.namespace, "-address", self.address, "-id", container_id]
        return [*self.program, *names, "-publish-binary", "/usr/bin/containerd", *action]

    def start(
        self, container_id: str, *, stdin: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs `start` in a bundle that is there, and returns once its outputs have ended."""
        done = subprocess.run(
            self.command(container_id, "start"),
            cwd=self.directory / container_id,
            input=self.params(container_id) if stdin is None else stdin,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60,
            env={**os.environ, "SHIMPY_FORK_SERVER": self.fork_server, **(env or {})},
        )  # fmt: skip
        self.note(done.stdout)
        return done

    def note(self, answer: bytes) -> str:
        """Notes whom to end at the end; returns the path of the socket."""
        path = answer.decode(errors="replace").removeprefix("unix://")
        if path.startswith("/"):
            self._paths.add(path)
        return path

    def path(self, container_id: str) -> str:
        """Returns where a shim's socket is to be: worked out here once more."""
        name = f"{self.address}/{self.namespace}/{container_id}"
        return str(self.sockets / hashlib.sha256(name.encode()).hexdigest())

    @contextlib.asynccontextmanager
    async def connected(self, path: str) -> AsyncIterator[Client]:
        """Connects to a shim."""
        client = await connect(path)
        try:
            yield client
        finally:
            client.close()

    async def pid(self, path: str) -> int:
        """Returns the process of a shim that listens on a socket."""
        async with self.connected(path) as client:
            reply = await client.call(
                TASK, "Connect", task.ConnectRequest("x"), task.ConnectResponse, timeout=60
            )
            return reply.shim_pid

    async def shut_down(self, path: str, container_id: str) -> None:
        """Calls Shutdown."""
        async with self.connected(path) as client:
            await client.call(
                TASK, "Shutdown", task.ShutdownRequest(container_id), well_known.Empty, timeout=60
            )

    async def aclose(self) -> None:
        """Ends the shims, and waits until they have."""
        for path in self._paths:
            with contextlib.suppress(Exception):  # that have ended already
                pid = await self.pid(path)
                os.kill(pid, signal.SIGTERM)
                await gone(pid)


async def gone(pid: int) -> None:
    """Waits until a process has ended."""
    await eventually(lambda: not alive(pid))


async def in_threads(*calls: Any) -> list[Any]:
    """Calls functions at once, each in a thread, and returns what they return."""
    return await asyncio.gather(*(asyncio.to_thread(call) for call in calls))
