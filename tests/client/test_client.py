"""The typed client: its calls, its events, its errors, and what becomes of it when the shim goes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import shimpy
from tests.support import leaks
from tests.support.rounds import rounds
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def test_whole_life_call_by_call(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    container_id, made = new_id(), bundle("sleep", "1000000")
    async with shimpy.connect(server.socket) as client, client.events() as events:
        assert await client.state() == shimpy.ContainerState("", "", 0, ())
        pid = await client.create(container_id, Path(made))
        await client.start()
        sleeper = await client.exec(["sleep", "1000"], cwd=Path("/tmp"), env={"PATH": "/bin"})
        running = shimpy.ProcessState.RUNNING
        assert await client.state() == shimpy.ContainerState(
            container_id,
            made,
            pid,
            (shimpy.ProcessInfo(pid, running), shimpy.ProcessInfo(sleeper, running)),
        )
        await client.pause()
        assert (await client.state()).processes[0].state is shimpy.ProcessState.PAUSED
        await client.resume()
        assert await client.delete(sleeper) == 137
        assert await client.delete(pid) == 137
        told = [await anext(events) for _ in range(5)]
        kinds = shimpy.EventType
        assert told == [
            shimpy.Event(container_id, kinds.CREATE, pid),
            shimpy.Event(container_id, kinds.START, pid),
            shimpy.Event(container_id, kinds.EXEC_ADDED, sleeper),
            shimpy.Event(container_id, kinds.EXIT, sleeper, 137),
            shimpy.Event(container_id, kinds.EXIT, pid, 137),
        ]


async def test_output_and_input_are_what_the_paths_name(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("from a file")
    target.touch()
    async with shimpy.connect(server.socket) as client:
        pid = await client.create(new_id(), bundle("cat"), stdin=source, stdout=target)
        async with client.events() as events:
            await client.start()
            async for event in events:
                if event.type is shimpy.EventType.EXIT:
                    break
        assert event == shimpy.Event((await client.state()).id, shimpy.EventType.EXIT, pid, 0)
        assert await client.delete(pid) == 0
    assert target.read_text() == "from a file"


async def test_statuses_come_back_as_errors(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with shimpy.connect(server.socket) as client:
        with pytest.raises(shimpy.NotFoundError, match="bundle"):
            await client.create(new_id(), "/no/such/bundle")
        with pytest.raises(shimpy.InvalidArgumentError, match="id"):
            await client.create("-", bundle("true"))
        with pytest.raises(shimpy.FailedPreconditionError):
            await client.start()
        with pytest.raises(shimpy.NotFoundError, match="99"):
            await client.delete(99)
        with pytest.raises(shimpy.InvalidArgumentError):
            await client.delete(2**40)
        with pytest.raises(shimpy.InvalidArgumentError):
            await client.delete(-1)
        with pytest.raises(shimpy.NotFoundError):
            await client.resize(99, 80, 24)
        with pytest.raises(shimpy.InvalidArgumentError, match="Unicode"):
            await client.create(new_id(), "/\udcff")
        with pytest.raises(shimpy.NotFoundError):
            await client.current()
        pid = await client.create(new_id(), bundle("true"))
        with pytest.raises(shimpy.AlreadyExistsError):
            await client.create(new_id(), bundle("true"))
        assert await client.delete(pid) == 137


async def test_time_that_is_up_is_said_and_leaves_no_trace_in_the_task(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    task = asyncio.current_task()
    assert task is not None
    async with shimpy.connect(server.socket) as client:
        with pytest.raises(shimpy.DeadlineExceededError):
            await client.create(new_id(), bundle("true"), timeout=0.001)
        assert task.cancelling() == 0
        pid = await client.create(new_id(), bundle("true"), timeout=60)
        await client.delete(pid)


async def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(shimpy.UnavailableError, match=r"nothing\.sock"):
        async with shimpy.connect(tmp_path / "nothing.sock"):
            pass
    with pytest.raises(shimpy.UnavailableError, match="No such file"):
        async with shimpy.connect(tmp_path / ("x" * 100) / "nothing.sock"):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(shimpy.UnavailableError):
        async with shimpy.connect(tmp_path / "file"):
            pass


async def test_path_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    async with shimpy.launch(directory / "shim.sock"):
        before = leaks.descriptors()
        async with shimpy.connect(directory / "shim.sock") as client:
            assert not (await client.state()).id
        await leaks.eventually(lambda: not leaks.opened_since(before))


async def test_shim_that_is_killed_is_missed_by_everybody(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    container_id = new_id()
    async with shimpy.connect(server.socket) as client:
        with pytest.raises(shimpy.UnavailableError):  # noqa: PT012 - the end of the block raises it
            async with client.container(container_id, bundle("sleep", "1000000")) as container:
                async with client.events() as events:
                    running = asyncio.ensure_future(container.run(["sleep", "1000"]))
                    waiting = asyncio.ensure_future(container.wait())
                    following = asyncio.ensure_future(_all(events))
                    await _command_is_there(client)
                    os.kill(server.pid, signal.SIGKILL)
                    for task in (running, waiting, following):
                        with pytest.raises(shimpy.UnavailableError):
                            await task
                with pytest.raises(shimpy.UnavailableError):
                    await client.state()
    subprocess.run(["runc", "delete", "--force", container_id], check=True)


async def _command_is_there(client: shimpy.ShimClient) -> None:
    """Returns once there is a process beside init, and the runtime that started it is done."""
    while len((await client.state()).processes) == 1:
        await asyncio.sleep(0.01)  # between two looks; nobody tells of it


async def _all(events: shimpy.EventStream) -> list[shimpy.Event]:
    return [event async for event in events]


async def test_events_end_when_the_shim_shuts_down(server: Server) -> None:
    async with shimpy.connect(server.socket) as client, client.events() as events:
        following = asyncio.ensure_future(_all(events))
        await asyncio.sleep(0)  # one step of the loop: it has begun, and waits
        assert await server.terminated() == 0
        assert await following == []


async def test_events_can_be_left_and_taken_up_again(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with shimpy.connect(server.socket) as client:
        async with client.events():
            pass
        events = client.events()
        creating = asyncio.ensure_future(anext(events))
        await client.state()
        pid = await client.create(new_id(), bundle("true"))
        assert (await creating).type is shimpy.EventType.CREATE
        await events.aclose()
        await events.aclose()
        async with client.events() as again:
            await client.delete(pid)
            assert (await anext(again)).type is shimpy.EventType.EXIT


async def test_container_is_deleted_at_the_end_of_the_block(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with shimpy.connect(server.socket) as client:
        async with client.container(new_id(), bundle("sleep", "1000000")) as container:
            assert (await container.state()).pid == container.pid
        assert not (await client.state()).id
        with pytest.raises(ZeroDivisionError):
            async with client.container(new_id(), bundle("sleep", "1000000")):
                raise ZeroDivisionError
        assert not (await client.state()).id
        async with client.container(new_id(), bundle("sleep", "1000000")) as container:
            await client.delete(container.pid)


async def test_container_that_is_cancelled_at_random_moments_leaves_nothing(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    moments = random.Random(7)
    made = bundle("sleep", "1000000")

    async def hold(container_id: str) -> None:
        async with client.container(container_id, made):
            await asyncio.Event().wait()

    async with shimpy.connect(server.socket) as client:
        for _ in range(rounds(6, 200)):
            holding = asyncio.ensure_future(hold(new_id()))
            await asyncio.sleep(moments.uniform(0, 0.1))  # whatever has been done by then
            holding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holding
            assert not (await client.state()).id


async def test_wait_returns_how_init_ended(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with (
        shimpy.connect(server.socket) as client,
        client.container(new_id(), bundle("sh", "-c", "sleep 0.2; exit 9")) as container,
    ):
        assert await container.wait() == 9
        assert await (await client.current()).wait() == 9


async def test_a_second_client_can_use_the_container(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with shimpy.connect(server.socket) as client, shimpy.connect(server.socket) as other:
        async with client.container(new_id(), bundle("sleep", "1000000")):
            container = await other.current()
            assert (await container.run(["echo", "hello"])).stdout == b"hello\n"
            waiting = asyncio.ensure_future(container.wait())
            await asyncio.sleep(0)  # one step of the loop: it has begun, and waits
        assert await waiting == 137


async def test_exits_are_not_lost_while_the_program_did_not_read(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """Past 4,096 unread events the shim ends the subscription; whoever waits is served all the same."""
    async with (
        shimpy.connect(server.socket) as client,
        client.container(new_id(), bundle("sleep", "1000000")) as container,
    ):
        script = "until [ -e /tmp/go ]; do sleep 0.01; done; exit 3"
        running = asyncio.ensure_future(container.run(["sh", "-c", script]))
        await _command_is_there(client)
        client._exits._losses += 1  # as _follow does when it hears RESOURCE_EXHAUSTED
        await client._exits._catch_up()
        await container.run(["touch", "/tmp/go"])
        assert (await running).exit_status == 3
        assert (await container.run(["sh", "-c", "exit 4"])).exit_status == 4


async def test_a_hundred_containers_in_one_process(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async def one(number: int) -> int:
        async with shimpy.in_process() as client:
            made = bundle("sh", "-c", f"exit {number}")
            return (await client.run(new_id(), made)).exit_status

    count = rounds(20, 100)
    assert await asyncio.gather(*(one(n) for n in range(count))) == list(range(count))


async def test_in_process_puts_back_what_it_changed() -> None:
    before = (signal.getsignal(signal.SIGCHLD), _is_subreaper())
    async with shimpy.in_process(), shimpy.in_process():
        assert _is_subreaper()
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(5)")
        assert await child.wait() == 5
    assert (signal.getsignal(signal.SIGCHLD), _is_subreaper()) == before


async def test_in_process_deletes_its_container_or_leaves_it(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    kept = new_id()
    async with shimpy.in_process() as client:
        await client.create(new_id(), bundle("sleep", "1000"))
    async with shimpy.in_process(leave_running=True) as client:
        pid = await client.create(kept, bundle("sleep", "1000"))
    assert leaks.alive(pid)
    subprocess.run(["runc", "delete", "--force", kept], check=True)


def _is_subreaper() -> bool:
    import ctypes

    value = ctypes.c_int()
    assert ctypes.CDLL(None).prctl(37, ctypes.byref(value)) == 0
    return bool(value.value)
