"""What an upgrade of a shim keeps that containerd's own commands do not show."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import betterproto
import pytest

from shimpy.api import events, task, types, well_known
from shimpy.transport.ttrpc import Client, connect
from shimpy.transport.ttrpc.envelope import Request, decode_response, encode_request
from tests.support.events_server import EventsServer
from tests.support.leaks import eventually
from tests.support.rawttrpc import REQUEST, Peer, connected, frame
from tests.support.shimv2 import TASK, Shims

pytestmark = pytest.mark.anyio

Reply = TypeVar("Reply", bound=betterproto.Message)


class Served:
    """A shim that no containerd knows, with one container.

    Attributes:
        id: the container's.
        path: of the socket.
        pid: the shim.
        client: one of its clients.
    """

    client: Client
    pid: int

    def __init__(self, shims: Shims, container_id: str, bundle: str, events_path: str) -> None:
        self.id = container_id
        self._bundle = bundle
        (shims.directory / container_id).symlink_to(bundle)
        os.mkfifo(Path(bundle, "log"))
        done = shims.start(container_id, env={"TTRPC_ADDRESS": events_path})
        assert done.returncode == 0, done.stdout
        self.path = done.stdout.decode().removeprefix("unix://")

    async def call(self, method: str, request: betterproto.Message, reply: type[Reply]) -> Reply:
        return await self.client.call(TASK, method, request, reply, timeout=60)

    async def create(self, **fields: Any) -> None:
        request = task.CreateTaskRequest(id=self.id, bundle=self._bundle, **fields)
        await self.call("Create", request, task.CreateTaskResponse)

    async def start(self, exec_id: str = "") -> None:
        await self.call("Start", task.StartRequest(self.id, exec_id), task.StartResponse)

    async def exec(self, exec_id: str, *args: str, **fields: Any) -> None:
        process = {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
        spec = well_known.Any(
            "types.containerd.io/opencontainers/runtime-spec/1/Process", json.dumps(process).encode()
        )
        request = task.ExecProcessRequest(id=self.id, exec_id=exec_id, spec=spec, **fields)
        await self.call("Exec", request, well_known.Empty)

    async def state(self, exec_id: str = "") -> task.StateResponse:
        return await self.call("State", task.StateRequest(self.id, exec_id), task.StateResponse)

    async def wait(self, exec_id: str = "") -> int:
        return (await self.call("Wait", task.WaitRequest(self.id, exec_id), task.WaitResponse)).exit_status

    async def kill(self) -> None:
        request = task.KillRequest(id=self.id, signal=signal.SIGKILL, all=True)
        await self.call("Kill", request, well_known.Empty)

    async def upgrade(self) -> None:
        """Upgrades the shim, which then answers a call."""
        # Where the program is in memory is chosen anew each time.
        before = self._layout()
        os.kill(self.pid, signal.SIGHUP)
        await eventually(lambda: self._layout() != before, within=30)
        await self.state()

    def _layout(self) -> list[str]:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[23:26]


@pytest.fixture
def taken() -> EventsServer:
    """containerd's end of the events, which nobody serves yet."""
    return EventsServer()


@pytest.fixture
async def served(
    shims: Shims, bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    """Starts shims, whose containers are removed at the end."""
    made: list[Served] = []

    async def start(*args: str, **options: Any) -> Served:
        one = Served(shims, new_id(), bundle(*args, **options), str(shims.directory / "events"))
        made.append(one)
        one.pid = await shims.pid(one.path)
        one.client = await connect(one.path)
        return one

    yield start
    for each in made:
        if (await each.state()).status != types.Status.STOPPED:
            await each.kill()
            await each.wait()
        await each.call("Delete", task.DeleteRequest(each.id), task.DeleteResponse)
        each.client.close()


async def test_a_created_container_is_started_after_it(served: Callable[..., Awaitable[Served]]) -> None:
    one = await served("sh", "-c", "exit 7")
    await one.create()
    await one.upgrade()
    created = (await one.state()).status
    await one.start()

    assert created == types.Status.CREATED
    assert await one.wait() == 7


async def test_an_exec_that_was_registered_is_started_after_it(
    served: Callable[..., Awaitable[Served]], tmp_path: Path
) -> None:
    """With the window size that was set, and with what its client has written already."""
    one = await served("sleep", "1000000")
    await one.create()
    await one.start()
    stdin, stdout = tmp_path / "in", tmp_path / "out"
    for fifo in (stdin, stdout):
        os.mkfifo(fifo)
    script = 'stty size; read x; echo "$x"; exit 5'
    await one.exec("one", "sh", "-c", script, terminal=True, stdin=str(stdin), stdout=str(stdout))
    await one.call("ResizePty", task.ResizePtyRequest(one.id, "one", 77, 33), well_known.Empty)
    writer = os.open(stdin, os.O_WRONLY)
    os.write(writer, b"typed\n")
    await one.upgrade()
    await one.start("one")
    reading = asyncio.create_task(asyncio.to_thread(stdout.read_bytes))

    assert await one.wait("one") == 5
    await one.call("Delete", task.DeleteRequest(one.id, "one"), task.DeleteResponse)
    shown = await reading
    os.close(writer)
    assert b"33 77" in shown
    assert shown.count(b"typed") == 2


@pytest.mark.parametrize("terminal", [False, True])
async def test_output_that_nobody_has_read_yet_comes_whole(
    served: Callable[..., Awaitable[Served]], tmp_path: Path, terminal: bool
) -> None:
    """What is in pipes stays there, what the shim had read goes along."""
    one = await served("sleep", "1000000")
    await one.create()
    await one.start()
    stdout = tmp_path / "out"
    os.mkfifo(stdout)
    reader = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
    await one.exec("one", "seq", "400000", terminal=terminal, stdout=str(stdout))
    await one.start("one")
    writer = os.open(stdout, os.O_WRONLY | os.O_NONBLOCK)
    await eventually(lambda: not select.select([], [writer], [], 0)[1])
    os.close(writer)
    for _ in range(2):
        await one.upgrade()
    os.set_blocking(reader, True)
    with open(reader, "rb") as file:
        reading = asyncio.create_task(asyncio.to_thread(file.read))
        assert await one.wait("one") == 0
        await one.call("Delete", task.DeleteRequest(one.id, "one"), task.DeleteResponse)
        output = await reading

    assert output.split() == [b"%d" % number for number in range(1, 400_001)]


async def test_a_frame_that_has_half_come_is_whole_after_it(served: Callable[..., Awaitable[Served]]) -> None:
    one = await served("sleep", "1000000")
    await one.create()
    payload = bytes(task.StateRequest(id=one.id))
    data = frame(3, REQUEST, encode_request(Request(TASK, "State", payload)))
    async with connected(Path(one.path)) as peer:
        peer.send(frame(1, REQUEST, encode_request(Request(TASK, "State", payload))) + data[:20])
        assert (await peer.answer())[:2] == (1, "OK")
        await one.upgrade()
        peer.send(data[20:])

        assert (await peer.answer())[:2] == (3, "OK")


async def test_waits_keep_their_streams(served: Callable[..., Awaitable[Served]]) -> None:
    one = await served("sleep", "1000000")
    await one.create()
    await one.start()
    payload = bytes(task.WaitRequest(id=one.id))
    async with connected(Path(one.path)) as peer:
        for stream in (5, 9):
            peer.send(frame(stream, REQUEST, encode_request(Request(TASK, "Wait", payload))))
        await answered(peer, 11, one.id)
        await one.upgrade()
        await answered(peer, 13, one.id)
        await one.kill()
        frames = [await peer.frame(), await peer.frame()]

    replies = [(stream, decode_response(payload).payload) for stream, _, payload in frames]
    statuses = {stream: task.WaitResponse().parse(reply).exit_status for stream, reply in replies}
    assert statuses == {5: 137, 9: 137}


async def answered(peer: Peer, stream: int, container_id: str) -> None:
    """Returns once a call is answered, which is after all that was sent before have begun."""
    payload = bytes(task.StateRequest(id=container_id))
    peer.send(frame(stream, REQUEST, encode_request(Request(TASK, "State", payload))))
    assert (await peer.answer())[:2] == (stream, "OK")


async def test_events_that_were_not_delivered_are_delivered_after_it(
    served: Callable[..., Awaitable[Served]], shims: Shims, taken: EventsServer
) -> None:
    """Each once, and in order with those that come then."""
    one = await served("sleep", "1000000")
    await one.create()
    await one.start()
    await one.upgrade()
    await one.kill()
    await one.wait()
    async with taken.listening(shims.directory / "events"):
        await eventually(lambda: "/tasks/exit" in taken.topics, within=20)

    assert taken.topics == ["/tasks/create", "/tasks/start", "/tasks/exit"]
    assert events.TaskExit().parse(taken.taken[2].event.value).exit_status == 137


async def test_statistics_of_one_that_is_stopped_are_there_after_it(
    served: Callable[..., Awaitable[Served]],
) -> None:
    one = await served("true")
    await one.create()
    await one.start()
    assert await one.wait() == 0
    await one.upgrade()

    assert await one.wait() == 0
    await one.call("Stats", task.StatsRequest(one.id), task.StatsResponse)


async def test_a_client_that_has_gone_meanwhile_is_forgotten(
    served: Callable[..., Awaitable[Served]],
) -> None:
    one = await served("sleep", "1000000")
    await one.create()
    sockets = open_sockets(one.pid)
    async with connected(Path(one.path)) as peer:
        await answered(peer, 1, one.id)
    await one.upgrade()

    await eventually(lambda: open_sockets(one.pid) <= sockets)


def open_sockets(pid: int) -> int:
    return sum(os.readlink(each).startswith("socket:") for each in Path(f"/proc/{pid}/fd").iterdir())
