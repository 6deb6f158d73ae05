"""The Task API: what each call does, and what containerd hears of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.api import runc_options, task, types, well_known
from shimpy.core.stdio.terminal import TerminalIO
from shimpy.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from shimpy.transport.protobuf import decode
from tests.services.task.conftest import Task
from tests.support.fifos import Fifo
from tests.support.leaks import alive
from tests.support.lives import KILLED
from tests.support.time_scale import scaled

pytestmark = pytest.mark.anyio

Tasks = Callable[[str], Task]
MakeBundle = Callable[..., str]
MakeFifo = Callable[[str], Fifo]


async def running(tasks: Tasks, bundle: MakeBundle) -> Task:
    one = tasks(bundle("sleep", "1000"))
    await one.create()
    await one.start()
    return one


async def test_a_life_is_told_in_order(tasks: Tasks, bundle: MakeBundle, tmp_path: Path) -> None:
    one = tasks(bundle("sh", "-c", "echo hello; exit 7"))
    (tmp_path / "out").touch()
    pid = await one.create(stdout=str(tmp_path / "out"))
    assert (await one.state()).status == types.Status.CREATED
    assert await one.start() == pid
    assert await one.wait() == 7
    assert (await one.state()).status == types.Status.STOPPED
    deleted = await one.delete()
    assert (deleted.pid, deleted.exit_status) == (pid, 7)
    assert deleted.exited_at.seconds > 0
    assert (tmp_path / "out").read_text() == "hello\n"
    assert one.topics == ["create", "start", "exit", "delete"]
    assert [getattr(message, "pid", None) for _, message in one.forwarded] == [pid] * 4
    with pytest.raises(NotFoundError):
        await one.state()


async def test_an_exec_is_registered_and_then_started(
    tasks: Tasks, bundle: MakeBundle, fifo: MakeFifo
) -> None:
    one = await running(tasks, bundle)
    out = fifo("out")
    reader = out.read()
    await one.exec("e1", "sh", "-c", "echo from the exec; exit 3", stdout=str(out))
    assert ((await one.state("e1")).status, (await one.state("e1")).pid) == (types.Status.CREATED, 0)
    waiting = asyncio.create_task(one.wait("e1"))
    pid = await one.start("e1")
    assert await waiting == 3
    state = await one.state("e1")
    assert (state.id, state.pid, state.status, state.exit_status) == ("e1", pid, types.Status.STOPPED, 3)
    assert state.stdout == str(out)
    assert await reader == b"from the exec\n"
    assert (await one.delete("e1")).exit_status == 3
    assert one.topics[2:] == ["exec-added", "exec-started", "exit"]
    assert [message.exec_id for _, message in one.forwarded[2:4]] == ["e1", "e1"]
    assert one.forwarded[4][1].id == "e1"


async def test_an_exec_id_is_taken_until_it_is_deleted(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    await one.exec("e1", "true")
    with pytest.raises(AlreadyExistsError, match="e1"):
        await one.exec("e1", "true")
    assert (await one.delete("e1")).exit_status == 0
    await one.exec("e1", "true")


async def test_an_exec_that_cannot_start_stays_and_its_wait_returns(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    await one.exec("e1", "no-such-program")
    waiting = asyncio.create_task(one.wait("e1"))
    with pytest.raises(NotFoundError, match='"no-such-program"'):
        await one.start("e1")
    assert await waiting == 255
    with pytest.raises(NotFoundError, match="start of exec e1 has failed"):
        await one.kill(signal.SIGKILL, "e1")
    assert (await one.delete("e1")).exit_status == 255
    with pytest.raises(NotFoundError):
        await one.delete("e1")


async def test_what_an_exited_exec_has_started_lives_on_and_its_output_ends_at_delete(
    tasks: Tasks, bundle: MakeBundle, fifo: MakeFifo
) -> None:
    one = await running(tasks, bundle)
    out = fifo("out")
    reader = out.read()
    await one.exec("e1", "sh", "-c", "sleep 1000 & echo $!", stdout=str(out))
    await one.start("e1")
    assert await one.wait("e1") == 0
    await one.delete("e1")
    assert await asyncio.wait_for(reader, scaled(20)) != b""
    pids = await one.call("Pids", task.PidsRequest(one.id), task.PidsResponse)
    assert len(pids.processes) == 2


async def test_delete_refuses_what_runs(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    await one.exec("e1", "sleep", "1000")
    await one.start("e1")
    for exec_id in ("", "e1"):
        with pytest.raises(FailedPreconditionError, match="running"):
            await one.delete(exec_id)


async def test_delete_of_a_created_init_ends_it(tasks: Tasks, bundle: MakeBundle) -> None:
    one = tasks(bundle("sleep", "1000"))
    pid = await one.create()
    assert (await one.delete()).exit_status == KILLED
    assert not alive(pid)


async def test_kill_sends_the_signal_to_the_process_alone(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    for name in ("e1", "e2"):
        await one.exec(name, "sleep", "1000")
        await one.start(name)
    await one.kill(signal.SIGTERM, "e1")
    assert await one.wait("e1") == 128 + signal.SIGTERM
    assert (await one.state("e2")).status == types.Status.RUNNING


async def test_kill_of_all_reaches_every_process(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    await one.exec("e1", "sleep", "1000")
    await one.start("e1")
    await one.kill(signal.SIGKILL, everything=True)
    assert [await one.wait("e1"), await one.wait()] == [KILLED, KILLED]


async def test_kill_of_one_that_has_exited_is_not_found(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    await one.exec("e1", "sleep", "1000")
    with pytest.raises(FailedPreconditionError, match="not started"):
        await one.kill(signal.SIGTERM, "e1")
    await one.kill(signal.SIGKILL)
    await one.wait()
    with pytest.raises(NotFoundError, match="exited"):
        await one.kill(signal.SIGKILL)


async def test_a_paused_container_can_be_killed(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    await one.call("Pause", task.PauseRequest(one.id), well_known.Empty)
    assert (await one.state()).status == types.Status.PAUSED
    await one.kill(signal.SIGKILL)
    assert await one.wait() == KILLED
    assert one.topics == ["create", "start", "paused", "exit"]


async def test_stdin_is_held_until_it_is_closed(tasks: Tasks, bundle: MakeBundle, fifo: MakeFifo) -> None:
    one = await running(tasks, bundle)
    source, out = fifo("in"), fifo("out")
    reader = out.read()
    await one.exec("e1", "cat", stdin=str(source), stdout=str(out))
    await one.start("e1")
    for line in (b"one\n", b"two\n"):
        # Each client leaves when it has written.
        await source.write(line)
    await one.call("CloseIO", task.CloseIoRequest(one.id, "e1", True), well_known.Empty)
    assert await one.wait("e1") == 0
    assert await reader == b"one\ntwo\n"


async def test_pids_names_the_execs(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    await one.exec("e1", "sleep", "1000")
    pid = await one.start("e1")
    reply = await one.call("Pids", task.PidsRequest(one.id), task.PidsResponse)
    infos = {process.pid: process.info for process in reply.processes}
    assert len(infos) == 2
    assert infos[pid].type_url == "containerd.runc.v1.ProcessDetails"
    assert decode(runc_options.ProcessDetails, infos[pid].value).exec_id == "e1"


async def test_connect_and_state_of_the_living(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    connected = await one.call("Connect", task.ConnectRequest(one.id), task.ConnectResponse)
    assert (connected.shim_pid, connected.task_pid) == (os.getpid(), (await one.state()).pid)
    unknown = await one.call("Connect", task.ConnectRequest("nobody"), task.ConnectResponse)
    assert unknown.task_pid == 0
    # Go's zero time, which its clients take for none.
    assert (await one.state()).exited_at.seconds == -62135596800


async def test_shutdown_waits_for_the_last_container(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    await one.call("Shutdown", task.ShutdownRequest(one.id), well_known.Empty)
    assert one.shutdowns == 0
    await one.kill(signal.SIGKILL)
    await one.wait()
    await one.delete()
    await one.call("Shutdown", task.ShutdownRequest(one.id), well_known.Empty)
    assert one.shutdowns == 1


async def test_stats_have_the_fields_of_this_machine_s_cgroups(tasks: Tasks, bundle: MakeBundle) -> None:
    one = await running(tasks, bundle)
    reply = await one.call("Stats", task.StatsRequest(one.id), task.StatsResponse)
    assert reply.stats.type_url in ("io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics")
    assert len(reply.stats.value) > 50


async def test_a_failed_create_leaves_nothing(tasks: Tasks, bundle: MakeBundle) -> None:
    one = tasks(bundle("no-such-program"))
    with pytest.raises(NotFoundError, match='"no-such-program"'):
        await one.create()
    with pytest.raises(NotFoundError):
        await one.delete()
    assert one.topics == []


async def test_of_two_creates_of_one_id_the_first_wins(tasks: Tasks, bundle: MakeBundle) -> None:
    one = tasks(bundle("sleep", "1000"))
    outcomes = await asyncio.gather(*(one.create() for _ in range(5)), return_exceptions=True)
    pids = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(pids) == 1
    assert [type(outcome) for outcome in outcomes].count(AlreadyExistsError) == 4
    assert await one.start() == pids[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"options": well_known.Any("containerd.runc.v1.Nonsense", b"x")}, "options"),
        ({"options": well_known.Any("containerd.runc.v1.Options", b"\xff")}, "Options"),
        ({"stdout": "gopher:///x"}, "gopher"),
    ],
)
async def test_a_create_that_cannot_be_is_refused(
    tasks: Tasks, bundle: MakeBundle, fields: dict[str, object], message: str
) -> None:
    one = tasks(bundle("true"))
    with pytest.raises(InvalidArgumentError, match=message):
        await one.create(**fields)
    with pytest.raises(NotFoundError):
        await one.state()


async def test_the_size_of_a_terminal_is_right_at_the_first_look(
    tasks: Tasks, bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the process looks before the shim has got the terminal from the runtime."""
    one = tasks(bundle("sleep", "1000"))
    await one.create()
    await one.start()
    (tmp_path / "out").touch()
    await one.exec("e1", "stty", "size", terminal=True, stdout=str(tmp_path / "out"))
    await one.call("ResizePty", task.ResizePtyRequest(one.id, "e1", 77, 33), well_known.Empty)
    monkeypatch.setattr(TerminalIO, "_apply_size", lambda _: None)
    await one.start("e1")

    assert await one.wait("e1") == 0
    await one.delete("e1")
    assert (tmp_path / "out").read_bytes() == b"33 77\r\n"
