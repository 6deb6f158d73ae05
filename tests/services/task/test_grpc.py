"""The Task API over gRPC, beside shim.v1 and about its container."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Callable

import pytest
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from shimpy.api import task, types, well_known
from tests.services.task.conftest import PROCESS
from tests.support.kinds import EXEC_ADDED, EXIT, STOPPED
from tests.support.lives import Life
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


class Task:
    """The Task API on a server's socket."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._name = name

    async def call(self, method: str, request: object, reply: type) -> object:
        path = f"/{self._name}/{method}"
        return await UnaryUnaryMethod(self._channel, path, type(request), reply)(request, timeout=30)


@pytest.fixture(params=["containerd.task.v2.Task", "containerd.task.v3.Task"])
async def task_api(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Task]:
    channel = Channel(path=str(server.socket))
    yield Task(channel, request.param)
    channel.close()


@pytest.fixture
async def life(live_served: Callable[..., Life]) -> Life:
    life = live_served("sleep", "1000")
    await life.create()
    await life.start()
    return life


async def test_it_tells_of_shim_v1_s_container(task_api: Task, life: Life) -> None:
    reply = await task_api.call("State", task.StateRequest(life.id), task.StateResponse)
    assert isinstance(reply, task.StateResponse)
    assert (reply.pid, reply.status) == (life.pid, types.Status.RUNNING)


async def test_an_exec_of_shim_v1_is_named_by_its_pid(task_api: Task, life: Life) -> None:
    pid = await life.exec("sleep", "1000")
    await task_api.call("Kill", task.KillRequest(life.id, str(pid), signal.SIGTERM), well_known.Empty)
    reply = await task_api.call("Wait", task.WaitRequest(life.id, str(pid)), task.WaitResponse)
    assert isinstance(reply, task.WaitResponse)
    assert reply.exit_status == 128 + signal.SIGTERM
    assert await life.delete(pid) == 128 + signal.SIGTERM


async def test_an_exec_of_the_task_api_appears_in_shim_v1_from_its_start(task_api: Task, life: Life) -> None:
    process = {"args": ["sh", "-c", "exit 3"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}
    spec = well_known.Any(PROCESS, json.dumps(process).encode())
    await task_api.call("Exec", task.ExecProcessRequest(life.id, "e1", spec=spec), well_known.Empty)
    assert list(await life.states()) == [life.pid]
    started = await task_api.call("Start", task.StartRequest(life.id, "e1"), task.StartResponse)
    assert isinstance(started, task.StartResponse)
    await life.exit_of(started.pid)
    assert [event.type for event in life.recorder.seen if event.pid == started.pid] == [EXEC_ADDED, EXIT]
    assert (await life.states())[started.pid] is STOPPED
    await task_api.call("Delete", task.DeleteRequest(life.id, "e1"), task.DeleteResponse)
    assert list(await life.states()) == [life.pid]


@pytest.mark.parametrize(
    ("method", "request_of"),
    [
        ("Create", task.CreateTaskRequest),
        ("Shutdown", task.ShutdownRequest),
    ],
)
async def test_create_and_shutdown_are_shim_v1_s(
    task_api: Task, life: Life, method: str, request_of: Callable[[str], object]
) -> None:
    with pytest.raises(GRPCError) as caught:
        await task_api.call(method, request_of(life.id), well_known.Empty)
    assert caught.value.status is Status.UNIMPLEMENTED
