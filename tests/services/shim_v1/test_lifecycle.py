"""A container's life over the real runtime: each end that it can come to, and what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from grpclib.const import Status

from shimpy import api
from shimpy.api import (
    CreateRequest,
    DeleteRequest,
    Event,
    PauseRequest,
    ResumeRequest,
    ShimStub,
    StartRequest,
    State,
    StateRequest,
)
from shimpy.core.cgroup import Cgroup
from shimpy.core.cgroup.freezer import FreezerTree
from shimpy.core.cgroup.unified import UnifiedTree
from shimpy.errors import FailedPreconditionError
from shimpy.services.shim_v1 import Shim
from shimpy.testing import Command, Fails, FakeRuntime, Hang, error_line
from tests.support import containers, residue
from tests.support.events import record
from tests.support.fifos import Fifo
from tests.support.inprocess import serve
from tests.support.kinds import CREATE, CREATED, EXEC_ADDED, EXIT, PAUSED, RUNNING, START, STOPPED
from tests.support.leaks import alive, descriptors, eventually
from tests.support.lives import KILLED, Life, refused, too_late
from tests.support.machine import RUNTIME
from tests.support.rounds import rounds
from tests.support.servers import Server
from tests.support.time_scale import scaled

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

Prepare = Callable[..., Life]
SLEEP = ("sleep", "1000")
WHOLE = [CREATE, START, EXIT]


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    with FakeRuntime() as fake:
        yield fake


def frozen(container_id: str) -> bool:
    """Whether the kernel holds every process of a container."""
    for cgroup in containers.cgroups(container_id):
        v1, v2 = Path(cgroup, "freezer.state"), Path(cgroup, "cgroup.events")
        if v1.exists():
            return v1.read_text() == "FROZEN\n"
        if "frozen 1" in (v2.read_text() if v2.exists() else ""):
            return True
    return False


async def test_short_lives_eight_shims_at_a_time(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """Each has its three events once and in order, its status, and leaves nothing."""
    path = bundle("true")
    lives = iter(range(rounds(24, 2000)))

    async def live() -> None:
        async with serve() as shim:
            for _ in lives:
                async with record(shim) as recorder:
                    container_id = new_id()
                    pid = (await shim.create(CreateRequest(id=container_id, bundle=path))).pid
                    await shim.start(StartRequest())
                    await recorder.wait_for(EXIT)
                    assert (await shim.delete(DeleteRequest(pid=pid))).exit_status == 0
                    assert recorder.seen == [Event(container_id, kind, pid) for kind in WHOLE]

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(live())
    assert containers.left() == []
    assert residue.cgroups() == []


async def test_an_exit_that_nobody_waits_for_with_delete(live: Prepare) -> None:
    """Delete right after Start kills, or finds it dead: both are answered with the truth."""
    for _ in range(rounds(5, 200)):
        life = live("sh", "-c", "exit 3")
        await life.create()
        await life.start()
        status = await life.delete()
        assert status in (3, KILLED)
        await life.exit_of(life.pid)
        assert life.recorder.seen[-1] == Event(life.id, EXIT, life.pid, status)


@pytest.mark.parametrize("status", [0, 7, 255])
async def test_the_exit_status(live: Prepare, status: int) -> None:
    life = live("sh", "-c", f"exit {status}")
    await life.create()
    await life.start()
    assert await life.exit_of(life.pid) == status
    assert await life.states() == {life.pid: STOPPED}
    assert await life.delete() == status
    assert life.recorder.seen == [
        Event(life.id, CREATE, life.pid),
        Event(life.id, START, life.pid),
        Event(life.id, EXIT, life.pid, status),
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_the_status_of_a_signal_is_128_and_its_number(live: Prepare, number: signal.Signals) -> None:
    life = live("sh", "-c", f"kill -{number.value} $$", own_pid_namespace=False)
    await life.create()
    await life.start()
    assert await life.exit_of(life.pid) == 128 + number
    assert await life.delete() == 128 + number


async def test_a_container_killed_by_delete(live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    await life.start()
    assert await life.delete() == KILLED
    assert await life.exit_of(life.pid) == KILLED
    assert life.recorder.types == WHOLE
    assert not alive(life.pid)
    assert await life.shim.state(StateRequest()) == api.StateResponse()


async def test_a_container_deleted_before_its_start(live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    assert await life.delete() == KILLED
    assert await life.exit_of(life.pid) == KILLED
    assert life.recorder.types == [CREATE, EXIT]


async def test_an_init_that_dies_before_its_start(live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    os.kill(life.pid, signal.SIGKILL)
    assert await life.exit_of(life.pid) == KILLED
    assert await life.state() is STOPPED
    await refused(life.start(), Status.FAILED_PRECONDITION, "stopped")
    await refused(life.exec("true"), Status.FAILED_PRECONDITION, "stopped")
    assert await life.delete() == KILLED
    assert life.recorder.types == [CREATE, EXIT]


async def test_an_init_that_dies_while_it_is_being_started(fake: FakeRuntime, live: Prepare) -> None:
    """Start is answered, not left waiting for the runtime, and START is not told of what never ran."""
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    fake.fault("start", Hang())
    start = asyncio.create_task(life.start())
    await eventually(lambda: fake.calls[-1].command == "start")
    os.kill(life.pid, signal.SIGKILL)
    await refused(start, Status.FAILED_PRECONDITION, "stopped")
    assert await life.exit_of(life.pid) == KILLED
    assert await life.delete() == KILLED
    assert life.recorder.types == [CREATE, EXIT]


async def test_a_program_that_ends_before_the_start_command_does(fake: FakeRuntime, live: Prepare) -> None:
    """EXIT has been reaped long before START is told, and yet comes after it."""
    life = live("sh", "-c", "exit 7")
    await life.create(runtime=fake.path)
    fake.fault("start", Hang(seconds=0.2, after=True))
    await life.start()
    assert await life.exit_of(life.pid) == 7
    assert life.recorder.types == WHOLE
    assert await life.delete() == 7


async def test_a_start_that_is_called_off_too_late_has_succeeded(fake: FakeRuntime, live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    fake.fault("start", Hang(after=True))
    starting = asyncio.ensure_future(life.start())
    await eventually(lambda: Path(f"/proc/{life.pid}/cmdline").read_bytes().startswith(b"sleep"))

    assert await life.delete() == KILLED

    await starting
    await life.exit_of(life.pid)
    assert life.recorder.types == WHOLE


async def test_a_resume_that_is_called_off_too_late_has_succeeded(fake: FakeRuntime, live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    await life.start()
    await life.shim.pause(PauseRequest())
    fake.fault("resume", Hang(after=True))
    resuming = asyncio.ensure_future(life.shim.resume(ResumeRequest()))
    cgroup = Cgroup.of(life.pid)
    await eventually(lambda: not cgroup.frozen())

    assert await life.delete() == KILLED

    await resuming


async def test_a_program_that_ends_while_the_start_command_hangs(fake: FakeRuntime, live: Prepare) -> None:
    life = live("sh", "-c", "exit 7")
    await life.create(runtime=fake.path)
    fake.fault("start", Hang(after=True))
    await life.start()
    assert await life.exit_of(life.pid) == 7
    assert life.recorder.types == WHOLE


async def test_an_init_that_dies_while_the_start_command_hangs(fake: FakeRuntime, live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    fake.fault("start", Hang())
    starting = asyncio.ensure_future(life.start())
    await eventually(lambda: [call.command for call in fake.calls] == ["create", "start"])
    os.kill(life.pid, signal.SIGKILL)
    await refused(starting, Status.FAILED_PRECONDITION, "stopped")
    assert await life.exit_of(life.pid) == KILLED
    assert life.recorder.types == [CREATE, EXIT]


async def test_what_state_says_on_the_way(live: Prepare) -> None:
    life = live(*SLEEP)
    assert await life.shim.state(StateRequest()) == api.StateResponse()
    await life.create()
    assert await life.shim.state(StateRequest()) == api.StateResponse(
        id=life.id,
        bundle=life.bundle,
        init_pid=life.pid,
        processes=[api.Process(life.pid, CREATED)],
    )
    await life.start()
    assert await life.state() is RUNNING
    await life.shim.pause(PauseRequest())
    assert await life.state() is PAUSED
    await life.shim.resume(ResumeRequest())
    assert await life.state() is RUNNING
    os.kill(life.pid, signal.SIGKILL)
    await life.exit_of(life.pid)
    assert await life.state() is STOPPED
    await life.delete()
    assert await life.shim.state(StateRequest()) == api.StateResponse()


async def test_pause_freezes_and_resume_thaws(live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    await life.start()
    assert not frozen(life.id)
    await life.shim.pause(PauseRequest())
    assert frozen(life.id)
    await life.shim.resume(ResumeRequest())
    assert not frozen(life.id)


@pytest.mark.parametrize("state", [CREATED, RUNNING, PAUSED, STOPPED])
async def test_delete_in_every_state(live: Prepare, state: State) -> None:
    life = live(*SLEEP)
    await life.create()
    if state is not CREATED:
        await life.start()
    if state is PAUSED:
        await life.shim.pause(PauseRequest())
    if state is STOPPED:
        os.kill(life.pid, signal.SIGKILL)
        await life.exit_of(life.pid)
    assert await life.state() is state
    assert await life.delete() == KILLED
    assert not alive(life.pid)
    assert residue.cgroups(life.id) == []


async def test_the_next_container_after_delete(live: Prepare) -> None:
    """The same service takes one after the other, also with the same id."""
    first, second = live("true"), live("sh", "-c", "exit 9")
    second.id = first.id
    for life, status in ((first, 0), (second, 9)):
        await life.create()
        await life.start()
        assert await life.exit_of(life.pid) == status
        assert await life.states() == {life.pid: STOPPED}
        assert await life.delete() == status
    await refused(first.delete(), Status.NOT_FOUND, str(first.pid))


@pytest.mark.parametrize("own_pid_namespace", [True, False], ids=["own pids", "shared pids"])
async def test_nothing_outlives_init(
    live_served: Prepare, fifo: Callable[[str], Fifo], own_pid_namespace: bool
) -> None:
    """In a shared pid namespace the kernel spares what init has started; the shim does not."""
    output = fifo("output")
    # The second is a daemon as in the books: no parent, no session, nothing of what it came from.
    program = "sleep 1000 & (setsid sleep 1000 >/dev/null 2>&1 &) ; echo up; read -r"
    life = live_served("sh", "-c", program, own_pid_namespace=own_pid_namespace)
    reading = output.read_some(3)
    await life.create(stdout=str(output), stdin=str(fifo("input")))
    await life.start()
    assert await reading == b"up\n"
    await eventually(lambda: len(residue.processes(life.id)) == 3)
    os.kill(life.pid, signal.SIGKILL)
    assert await life.exit_of(life.pid) == KILLED
    await eventually(lambda: residue.processes(life.id) == [])
    assert await life.delete() == KILLED


# -- Delete --------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_pid_namespace", [True, False], ids=["own pids", "shared pids"])
async def test_delete_kills_all_that_init_started(live_served: Prepare, own_pid_namespace: bool) -> None:
    program = "for i in 1 2 3 4 5; do sleep 1000 & (setsid sleep 1000 &) ; done; exec sleep 1000"
    life = live_served("sh", "-c", program, own_pid_namespace=own_pid_namespace)
    await life.create()
    await life.start()
    await eventually(lambda: len(residue.processes(life.id)) == 11)
    assert await life.delete() == KILLED
    assert residue.cgroups(life.id) == []


async def test_concurrent_deletes_share_one_answer(fake: FakeRuntime, live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    await life.start()
    assert await asyncio.gather(*(life.delete() for _ in range(5))) == [KILLED] * 5
    assert [call.command for call in fake.calls] == ["create", "start", "delete"]
    await life.exit_of(life.pid)
    assert life.recorder.types == WHOLE


async def test_concurrent_deletes_of_an_exec_share_one_answer(live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    await life.start()
    pid = await life.exec("sleep", "1000")
    assert await asyncio.gather(*(life.delete(pid) for _ in range(5))) == [KILLED] * 5
    assert await life.exit_of(pid) == KILLED
    assert life.recorder.of(pid) == [EXEC_ADDED, EXIT]
    await refused(life.delete(pid), Status.NOT_FOUND, str(pid))


async def test_a_delete_that_the_runtime_fails_can_be_tried_again(fake: FakeRuntime, live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    await life.start()
    fake.fault(
        "delete", Fails(log=error_line("unable to destroy container: device or resource busy")), times=2
    )
    await refused(life.delete(), Status.INTERNAL, "device or resource busy")
    assert await life.states() == {life.pid: STOPPED}
    await refused(
        life.shim.create(CreateRequest(id="other", bundle=life.bundle)), Status.ALREADY_EXISTS, life.id
    )
    await refused(life.delete(), Status.INTERNAL, "device or resource busy")
    assert await life.delete() == KILLED
    await life.exit_of(life.pid)
    assert life.recorder.types == WHOLE


async def test_concurrent_deletes_after_one_that_failed_share_one_answer(
    fake: FakeRuntime, live: Prepare
) -> None:
    life = live("true")
    await life.create(runtime=fake.path)
    await life.start()
    await life.exit_of(life.pid)
    fake.fault("delete", Fails(log=error_line("no")), times=1)
    await refused(life.delete(), Status.INTERNAL, "no")
    assert await asyncio.gather(*(life.delete() for _ in range(5))) == [0] * 5
    assert [call.command for call in fake.calls] == ["create", "start", "delete", "delete"]


async def test_a_delete_is_not_undone_by_the_going_of_one_of_its_callers(
    fake: FakeRuntime, live: Prepare
) -> None:
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    await life.start()
    fake.fault("delete", Hang())
    first, second = asyncio.create_task(life.delete()), asyncio.create_task(life.delete())
    await eventually(lambda: fake.calls[-1].command == "delete")
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    fake.release()
    assert await second == KILLED


async def test_a_container_that_somebody_deleted_by_the_runtime_itself(live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    await life.start()
    deletion = await asyncio.create_subprocess_exec(RUNTIME, "delete", "--force", life.id)
    assert await deletion.wait() == 0
    assert await life.exit_of(life.pid) == KILLED
    assert await life.delete() == KILLED
    assert await life.state() is None


# -- one command for each call -------------------------------------------------------------------


async def test_one_runtime_command_for_each_call(fake: FakeRuntime, live: Prepare) -> None:
    """Exactly one for each of these; none for State, Pty and Events; one for Delete of what has exited."""
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    await life.start()
    pid = await life.exec("sleep", "1000")
    await life.shim.pause(PauseRequest())
    await life.shim.resume(ResumeRequest())
    await life.states()
    await refused(life.shim.pty(api.PtyRequest(pid, 80, 24)), Status.FAILED_PRECONDITION)
    assert [call.command for call in fake.calls] == ["create", "start", "exec", "pause", "resume"]
    os.kill(pid, signal.SIGKILL)
    os.kill(life.pid, signal.SIGKILL)
    await life.exit_of(life.pid)
    assert await life.delete() == KILLED
    assert [call.command for call in fake.calls][5:] == ["delete"]


async def test_no_pivot_and_the_bundle_are_passed_on(fake: FakeRuntime, live: Prepare) -> None:
    life = live("true")
    fake.fault("create", Fails(log=error_line("seen")))
    for no_pivot in (True, False):
        await refused(life.create(runtime=fake.path, no_pivot=no_pivot), Status.INTERNAL, "seen")
        (call,) = [call for call in fake.calls if call.command == "create"][-1:]
        assert ("--no-pivot" in call.argv) == no_pivot
        assert f"--bundle={life.bundle}" in call.argv
        assert call.argv[-1] == life.id


# -- all or nothing ------------------------------------------------------------------------------


async def test_a_create_that_failed_can_be_made_again(live: Prepare, tmp_path: Path) -> None:
    life = live("true")
    await refused(life.create(stdout=str(tmp_path / "output")), Status.NOT_FOUND, "stdout", "output")
    assert await life.state() is None
    (tmp_path / "output").touch()
    await life.create(stdout=str(tmp_path / "output"))
    await life.start()
    assert await life.exit_of(life.pid) == 0
    assert life.recorder.types == WHOLE


@pytest.mark.parametrize("after", [False, True], ids=["before it works", "after it worked"])
async def test_a_create_whose_deadline_passes_leaves_nothing(
    fake: FakeRuntime, live_served: Prepare, after: bool
) -> None:
    life = live_served(*SLEEP)
    fake.fault("create", Hang(after=after, children=1), times=1)
    request = CreateRequest(id=life.id, bundle=life.bundle, runtime=fake.path)
    await too_late(life.shim.create(request, timeout=scaled(0.5)))
    fake.clear()  # on a busy machine the deadline may have come before the command
    life.pid = (await life.shim.create(request)).pid
    assert await life.delete() == KILLED
    await life.exit_of(life.pid)
    assert life.recorder.types == [CREATE, EXIT]


async def test_the_deadline_of_each_later_call(fake: FakeRuntime, live_served: Prepare) -> None:
    """A runtime that hangs costs the call that waited for it, and the same call can be made again."""
    life = live_served(*SLEEP)
    await life.create(runtime=fake.path)
    calls: dict[Command, Callable[[float], Awaitable[object]]] = {
        "start": lambda timeout: life.shim.start(StartRequest(), timeout=timeout),
        "pause": lambda timeout: life.shim.pause(PauseRequest(), timeout=timeout),
        "resume": lambda timeout: life.shim.resume(ResumeRequest(), timeout=timeout),
        "delete": lambda timeout: life.shim.delete(DeleteRequest(life.pid), timeout=timeout),
    }
    for name, call in calls.items():
        before = await life.state()
        fake.fault(name, Hang(children=1), times=1)
        await too_late(call(scaled(0.5)))
        fake.clear()  # on a busy machine the deadline may have come before the command
        if name != "delete":
            assert await life.state() is before
        await call(scaled(20))
    assert not any(alive(each.pid) for each in fake.calls)
    assert await life.state() is None
    await life.exit_of(life.pid)
    assert life.recorder.types == WHOLE


async def test_a_create_whose_client_goes_at_the_last_moment(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """CREATE has been told, so there is a container, and whoever lists it can delete it."""
    async with Shim() as service:
        publish, container_id = service._events.publish, new_id()
        request = CreateRequest(id=container_id, bundle=bundle(*SLEEP))
        create = asyncio.create_task(service.create(request))
        cancelled = []

        def cancel_at_create(item: Event) -> None:
            publish(item)
            if item.type == CREATE:
                cancelled.append(create.cancel())

        service._events.publish = cancel_at_create  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await create
        assert cancelled == [True]
        state = await service.state(StateRequest())
        assert state.id == container_id
        reply = await service.delete(DeleteRequest(pid=state.init_pid))
        assert reply.exit_status == KILLED


async def test_an_exec_that_comes_in_the_same_moment_as_delete(
    bundle: Callable[..., str], new_id: Callable[[], str], fifo: Callable[[str], Fifo]
) -> None:
    """It is called off before its first step, and what had been opened for it is closed."""
    output = str(fifo("output"))
    async with Shim() as service:
        pid = (await service.create(CreateRequest(id=new_id(), bundle=bundle(*SLEEP)))).pid
        request = api.ExecRequest(args=["true"], stdin=output, stdout=output)
        exec_ = asyncio.create_task(service.exec(request))
        reply = await service.delete(DeleteRequest(pid=pid))
        assert reply.exit_status == KILLED
        with pytest.raises(FailedPreconditionError, match="deleted"):
            await exec_
        assert [path for path in descriptors().values() if path == output] == []


async def test_concurrent_creates(
    shim: ShimStub, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """One wins; the others are told that it has."""
    path = bundle(*SLEEP)
    ids = [new_id() for _ in range(5)]
    replies = await asyncio.gather(
        *(shim.create(CreateRequest(id=each, bundle=path)) for each in ids), return_exceptions=True
    )
    (winner,) = [reply for reply in replies if isinstance(reply, api.CreateResponse)]
    refusals = [reply for reply in replies if isinstance(reply, Exception)]
    assert [getattr(each, "status", None) for each in refusals] == [Status.ALREADY_EXISTS] * 4
    await shim.delete(DeleteRequest(winner.pid))


async def test_a_container_goes_on_when_its_shim_ends(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    container_id = new_id()
    async with serve() as shim:
        pid = (await shim.create(CreateRequest(id=container_id, bundle=bundle(*SLEEP)))).pid
        await shim.start(StartRequest())
    assert alive(pid)
    containers.remove(container_id)
    # The test's own process is its parent, as the subreaper that it was.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


# -- a client of another make --------------------------------------------------------------------


async def test_googles_client_drives_a_whole_life(
    server: Server,
    foreign: tuple[ModuleType, ModuleType],
    bundle: Callable[..., str],
    new_id: Callable[[], str],
    tmp_path: Path,
) -> None:
    """grpcio, compiled from the proto by Google's own compiler, over the socket of a `python -m shimpy`."""
    import grpc

    messages, stubs = foreign
    output = tmp_path / "output"
    output.touch()
    container_id, path = new_id(), bundle("sh", "-c", "echo from init; exec sleep 1000")

    def status_of(call: Callable[..., object], request: object) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=30)
        return str(caught.value.code().name)

    def drive() -> None:
        with grpc.insecure_channel(f"unix:{server.socket}") as channel:
            shim = stubs.ShimStub(channel)
            empty = messages.StateRequest()
            assert shim.State(empty) == messages.StateResponse()
            events = shim.Events(messages.EventsRequest())
            request = messages.CreateRequest(id=container_id, bundle=path, stdout=str(output))
            pid = shim.Create(request).pid
            assert shim.State(empty) == messages.StateResponse(
                id=container_id,
                bundle=path,
                initPid=pid,
                processes=[messages.Process(pid=pid, state=messages.CREATED)],
            )
            assert status_of(shim.Create, request) == "ALREADY_EXISTS"
            shim.Start(messages.StartRequest())
            while not output.read_text():
                time.sleep(0.01)
            request = messages.ExecRequest(args=["sh", "-c", "exit 7"], user=messages.User(uid=1000))
            exec_pid = shim.Exec(request).pid
            seen: list[Any] = []
            while not seen or seen[-1].type != messages.EXIT:
                seen.append(next(events))
            terminal = shim.Exec(messages.ExecRequest(args=["sleep", "1000"], terminal=True)).pid
            shim.Pty(messages.PtyRequest(pid=terminal, width=80, height=24))
            assert status_of(shim.Exec, messages.ExecRequest()) == "INVALID_ARGUMENT"
            shim.Pause(messages.PauseRequest())
            assert status_of(shim.Exec, messages.ExecRequest(args=["true"])) == "FAILED_PRECONDITION"
            assert shim.State(empty).processes[0].state == messages.PAUSED
            shim.Resume(messages.ResumeRequest())
            assert status_of(shim.Delete, messages.DeleteRequest(pid=1)) == "NOT_FOUND"
            assert shim.Delete(messages.DeleteRequest(pid=pid)).exit_status == KILLED
            assert shim.State(empty) == messages.StateResponse()
            while len(seen) < 7:
                seen.append(next(events))
            events.cancel()
            assert all(event.id == container_id for event in seen)
            assert [(event.type, event.exit_status) for event in seen if event.pid == pid] == [
                (messages.CREATE, 0),
                (messages.START, 0),
                (messages.EXIT, KILLED),
            ]
            for other, status in ((exec_pid, 7), (terminal, KILLED)):
                assert [(event.type, event.exit_status) for event in seen if event.pid == other] == [
                    (messages.EXEC_ADDED, 0),
                    (messages.EXIT, status),
                ]

    await asyncio.to_thread(drive)
    assert output.read_text() == "from init\n"


# -- two calls at a time -------------------------------------------------------------------------


async def test_a_container_that_is_being_started_can_be_entered(fake: FakeRuntime, live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    fake.fault("start", Hang(after=True))
    starting = asyncio.ensure_future(life.start())
    await eventually(lambda: fake.calls[-1].command == "start")
    assert (await life.run("echo", "in")).stdout == "in\n"
    await refused(life.start(), Status.FAILED_PRECONDITION, "is being started")
    await refused(life.shim.pause(PauseRequest()), Status.FAILED_PRECONDITION, "is being started")
    assert not starting.done()
    fake.release()
    await starting


async def test_nothing_else_is_done_to_a_container_that_is_being_deleted(
    fake: FakeRuntime, live: Prepare
) -> None:
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    await life.start()
    fake.fault("delete", Hang())
    deleting = asyncio.ensure_future(life.delete())
    await eventually(lambda: fake.calls[-1].command == "delete")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "start": life.start,
        "exec": lambda: life.exec("true"),
        "pause": lambda: life.shim.pause(PauseRequest()),
        "resume": lambda: life.shim.resume(ResumeRequest()),
    }
    for name, call in calls.items():
        await refused(call(), Status.FAILED_PRECONDITION, name, "is being deleted")
    fake.release()
    assert await deleting == KILLED


# -- a kernel that refuses -----------------------------------------------------------------------


async def test_a_pause_that_cannot_be_undone_tells_why_it_failed(
    fake: FakeRuntime, live: Prepare, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the runtime said, and not what came of thawing."""
    life = live(*SLEEP)
    await life.create(runtime=fake.path)
    await life.start()
    fake.fault("pause", Fails(log=error_line("freezer not supported")))
    with monkeypatch.context() as patch:
        patch.setattr(FreezerTree, "_thaw", _refuse)
        patch.setattr(UnifiedTree, "_thaw", _refuse)
        await refused(life.shim.pause(PauseRequest()), Status.INTERNAL, "freezer not supported")
    assert "cannot thaw" in caplog.text


async def test_what_outlives_init_and_cannot_be_killed_is_logged(
    live: Prepare, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    life = live("sh", "-c", "sleep 1000 & exec sleep 1000", own_pid_namespace=False)
    await life.create()
    await life.start()
    await eventually(lambda: len(residue.processes(life.id)) == 2)
    with monkeypatch.context() as patch:
        patch.setattr(FreezerTree, "_freeze", _refuse)
        patch.setattr(UnifiedTree, "populated", _refuse)
        os.kill(life.pid, signal.SIGKILL)
        assert await life.exit_of(life.pid) == KILLED
        await eventually(lambda: f"cannot kill what is left in container {life.id}" in caplog.text)
    assert await life.delete() == KILLED
    gc.collect()
    assert "never retrieved" not in caplog.text


def _refuse(*_: object) -> bool:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
