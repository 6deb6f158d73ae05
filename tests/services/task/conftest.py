"""The Task API over ttrpc, in this process, with what it forwards to containerd."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import betterproto
import pytest

from shimpy.api import task, well_known
from shimpy.core.supervisor import Supervisor
from shimpy.services.task.service import NAMES, TaskService
from shimpy.transport import unix
from shimpy.transport.ttrpc import Client, TtrpcServer, connect

PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"

Reply = TypeVar("Reply", bound=betterproto.Message)


class Task:
    """A client of one container's calls, and what the service has forwarded."""

    def __init__(self, client: Client, container_id: str, bundle: str, namespace: str) -> None:
        self.client = client
        self.id = container_id
        self.bundle = bundle
        self.namespace = namespace
        self.forwarded: list[tuple[str, Any]] = []
        self.shutdowns = 0

    async def call(self, method: str, request: betterproto.Message, reply: type[Reply]) -> Reply:
        return await self.client.call(NAMES[0], method, request, reply, timeout=30)

    async def create(self, **fields: Any) -> int:
        request = task.CreateTaskRequest(id=self.id, bundle=self.bundle, **fields)
        return (await self.call("Create", request, task.CreateTaskResponse)).pid

    async def start(self, exec_id: str = "") -> int:
        return (await self.call("Start", task.StartRequest(self.id, exec_id), task.StartResponse)).pid

    async def exec(self, exec_id: str, *args: str, **fields: Any) -> None:
        process = {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
        spec = well_known.Any(
            "types.containerd.io/opencontainers/runtime-spec/1/Process", json.dumps(process).encode()
        )
        await self.call(
            "Exec", task.ExecProcessRequest(self.id, exec_id, spec=spec, **fields), well_known.Empty
        )

    async def wait(self, exec_id: str = "") -> int:
        return (await self.call("Wait", task.WaitRequest(self.id, exec_id), task.WaitResponse)).exit_status

    async def kill(self, signum: int, exec_id: str = "", *, everything: bool = False) -> None:
        await self.call("Kill", task.KillRequest(self.id, exec_id, signum, everything), well_known.Empty)

    async def delete(self, exec_id: str = "") -> task.DeleteResponse:
        return await self.call("Delete", task.DeleteRequest(self.id, exec_id), task.DeleteResponse)

    async def state(self, exec_id: str = "") -> task.StateResponse:
        return await self.call("State", task.StateRequest(self.id, exec_id), task.StateResponse)

    @property
    def topics(self) -> list[str]:
        return [topic.removeprefix("/tasks/") for topic, _ in self.forwarded]


@pytest.fixture
async def tasks(new_id: Callable[[], str]) -> AsyncIterator[Callable[[str], Task]]:
    """Makes clients of a new service: `tasks(bundle)`; what is left at the end is killed."""
    made: list[Task] = []
    namespace = f"shimpy-test-{os.getpid()}"

    def forward(topic: str, message: betterproto.Message) -> None:
        for one in made:
            if getattr(message, "container_id", "") == one.id:
                one.forwarded.append((topic, message))

    def shutdown() -> None:
        for one in made:
            one.shutdowns += 1

    supervisor = Supervisor()
    service = TaskService(supervisor, namespace=namespace, forward=forward, shutdown=shutdown)
    server = TtrpcServer(service.services())
    with tempfile.TemporaryDirectory() as directory:
        listener = unix.listen(str(Path(directory, "socket")))
        await server.start(listener.socket)
        client = await connect(str(Path(directory, "socket")))

        def make(bundle: str) -> Task:
            made.append(Task(client, new_id(), bundle, namespace))
            return made[-1]

        yield make
        for container in list(supervisor):
            if container.init is not None:
                await container.delete(container.init)
        client.close()
        await server.drain(1)
        await supervisor.aclose()
