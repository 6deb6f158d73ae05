"""Every command of the runtime, and every way in which it can go wrong, through the service.

A fault costs the call that meets it and nothing else: that call ends with a clear status in time, nothing
is left of it, and the same call can be made again and then works.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from shimpy.api import (
    CreateRequest,
    DeleteRequest,
    EventType,
    ExecRequest,
    PauseRequest,
    PtyRequest,
    ResumeRequest,
    StartRequest,
    State,
    StateRequest,
)
from shimpy.core.cgroup import Cgroup, Leftovers
from shimpy.core.cgroup.hierarchies import Hierarchies
from shimpy.core.stdio.processio import PlainIO
from shimpy.errors import InternalError
from shimpy.testing import (
    Command,
    Console,
    Fails,
    FakeRuntime,
    Fault,
    Hang,
    PidFile,
    Prints,
    Signalled,
    error_line,
)
from tests.support import containers, residue
from tests.support.events import record
from tests.support.leaks import alive, children, eventually
from tests.support.lives import KILLED, Life, refused, too_late
from tests.support.rounds import FULL, rounds
from tests.support.time_scale import scaled

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

# What the service runs for its calls, one for each; it never runs `kill`, and `state` only to clean up.
COMMANDS: tuple[Command, ...] = ("create", "start", "exec", "pause", "resume", "delete")

BEFORE: dict[Command, object] = {
    "create": None,
    "start": State.CREATED,
    "exec": State.RUNNING,
    "pause": State.RUNNING,
    "resume": State.PAUSED,
    "delete": State.STOPPED,
}
AFTER: dict[Command, object] = {
    "create": State.CREATED,
    "start": State.RUNNING,
    "exec": State.RUNNING,
    "pause": State.PAUSED,
    "resume": State.RUNNING,
    "delete": None,
}


@dataclass(frozen=True)
class Row:
    """A fault and what the client of the call that meets it is told."""

    fault: Fault
    status: Status
    words: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.fault)[:70]


FIRE = error_line("the pool is on fire")

# What a runtime may do instead of its work.
REFUSALS = [
    Row(Signalled(signal.SIGKILL), Status.INTERNAL, ("killed by signal 9",)),
    Row(Signalled(signal.SIGSEGV), Status.INTERNAL, ("killed by signal 11",)),
    Row(Signalled(signal.SIGTERM), Status.INTERNAL, ("killed by signal 15",)),
    Row(Fails(), Status.INTERNAL, ("exit status 1", "no error message")),
    Row(Fails(log=FIRE), Status.INTERNAL, ("the pool is on fire",)),
    Row(Fails(log=b"x" * 2_000_000), Status.INTERNAL, ("exit status 1",)),
]

# What it may leave in its log; all commands' logs are read in one place, so each row takes its turn.
LOGS = [
    Row(Fails(status=255, log=b"\n\n"), Status.INTERNAL, ("exit status 255", "no error message")),
    Row(Fails(log=FIRE[:-9]), Status.INTERNAL, ("exit status 1",)),
    Row(Fails(log=FIRE + error_line("cut off")[:-9]), Status.INTERNAL, ("the pool is on fire",)),
    Row(Fails(log=FIRE + b'{"level":"info","msg":"bye"}\n'), Status.INTERNAL, ("the pool is on fire",)),
    Row(Fails(log=b"panic: \x00\x01 <not> JSON {}[]\n"), Status.INTERNAL, ("exit status 1",)),
    Row(Fails(log=b"\xff\xfe" * 50), Status.INTERNAL, ("exit status 1",)),
    Row(Fails(log=FIRE.replace(b"fire", b"\xff\xfe")), Status.INTERNAL, ("the pool is on",)),
    Row(Fails(log=error_line("\0\x1b[2J\r\nfire\u202e")), Status.INTERNAL, ("fire",)),
    Row(Fails(log=error_line("fire " + "x" * 200_000)), Status.INTERNAL, ("fire xxx",)),
    Row(Fails(log=b"[" * 200_000), Status.INTERNAL, ("exit status 1",)),
    Row(
        Fails(log=error_line("write /run/x: no space left on device")),
        Status.RESOURCE_EXHAUSTED,
        ("no space left on device",),
    ),
    Row(Fails(log=error_line("open /x: permission denied")), Status.PERMISSION_DENIED, ("open /x",)),
]

# It has done its work and says that it has not.
AFTER_THE_WORK = [
    Row(Signalled(signal.SIGKILL, after=True), Status.INTERNAL, ("killed by signal 9",)),
    Row(Fails(log=FIRE, after=True), Status.INTERNAL, ("the pool is on fire",)),
    Row(Fails(after=True), Status.INTERNAL, ("exit status 1",)),
]

HANGS = [
    Hang(),
    Hang(ignore_sigterm=True, children=3),
    Hang(after=True),
    Hang(after=True, ignore_sigterm=True, children=1),
    Signalled(signal.SIGSTOP),
]

HARMLESS = [Hang(seconds=0.3), Hang(seconds=0.3, after=True), Prints(stdout=3_000_000, stderr=3_000_000)]

WRONG_PIDS: list[str | None] = [
    None, "", "\n", "0", "1", "-1", "-9", "text", "0x10", "{pid}.5", "{pid} {pid}",
    "4194305", "99999999999999999999", "\0", "²", "x" * 1_000_000,
]  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeRuntime]:
    with FakeRuntime(tmp_path) as fake:
        yield fake


@pytest.fixture
async def life(fake: FakeRuntime, live: Callable[..., Life]) -> Life:
    return live("sleep", "1000")


async def prepare(life: Life, fake: FakeRuntime, command: Command) -> None:
    """Brings a container to where the call that runs this command can be made."""
    if command == "create":
        return
    await life.create(runtime=fake.path)
    if command == "start":
        return
    await life.start()
    if command == "resume":
        await life.shim.pause(PauseRequest())
    elif command == "delete":
        os.kill(life.pid, signal.SIGKILL)
        await life.exit_of(life.pid)


async def call(
    life: Life, fake: FakeRuntime, command: Command, timeout: float | None = None, *, terminal: bool = False
) -> None:
    """Makes the call that runs this command; what it makes sleeps for ever."""
    shim = life.shim
    match command:
        case "create":
            create = CreateRequest(id=life.id, bundle=life.bundle, runtime=fake.path, terminal=terminal)
            life.pid = (await shim.create(create, timeout=timeout)).pid
        case "start":
            await shim.start(StartRequest(), timeout=timeout)
        case "exec":
            await shim.exec(ExecRequest(args=["sleep", "1000"], terminal=terminal), timeout=timeout)
        case "pause":
            await shim.pause(PauseRequest(), timeout=timeout)
        case "resume":
            await shim.resume(ResumeRequest(), timeout=timeout)
        case "delete":
            reply = await shim.delete(DeleteRequest(pid=life.pid), timeout=timeout)
            assert reply.exit_status == KILLED
        case _:
            raise AssertionError(command)


def mounts(life: Life) -> list[str]:
    """Returns the mounts on this machine that have to do with a container."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if life.id in line or life.bundle in line]


@contextlib.asynccontextmanager
async def nothing_left_of_it(life: Life) -> AsyncIterator[None]:
    """Around a call that fails: the machine is as it was before, and so is what State tells."""
    before, mounted = residue.snapshot(), (mounts(life), containers.left())
    told = (await life.states(), list(life.recorder.seen))
    yield
    # A directory of no name is kept for the next command, once there was one.
    allowed: tuple[dict[str, list[str]], ...] = ({}, {"file descriptors": ["/"]})
    with contextlib.suppress(AssertionError):
        await eventually(lambda: residue.new_since(before) in allowed, within=3)
    assert residue.new_since(before) in allowed
    assert (mounts(life), containers.left()) == mounted
    assert (await life.states(), life.recorder.seen) == told


async def runs_to_its_end(life: Life) -> None:
    """Fails unless a container runs and can be deleted."""
    assert await life.state() is State.RUNNING
    assert (await life.run("true")).status == 0
    assert await life.delete() == KILLED


async def works_again(life: Life, fake: FakeRuntime, command: Command) -> None:
    """Makes the call once more, and brings the container to its end."""
    assert await life.state() is BEFORE[command]
    await call(life, fake, command)
    assert await life.state() is AFTER[command]
    await ends_well(life, command)


async def ends_well(life: Life, command: Command) -> None:
    """Deletes the container, and compares all events with those of one without faults."""
    if await life.state() is not None:
        assert alive(life.pid)
        assert await life.delete() == KILLED
    await life.exit_of(life.pid)
    expected = {
        "create": [EventType.CREATE, EventType.EXIT],
        "start": [EventType.CREATE, EventType.START, EventType.EXIT],
        "exec": [
            EventType.CREATE, EventType.START, EventType.EXEC_ADDED, EventType.EXIT, EventType.EXIT,
        ],
    }  # fmt: skip
    assert life.recorder.types == expected.get(command, expected["start"])
    assert containers.cgroups(life.id) == []


async def in_time(fault: float, attempt: Callable[[], Awaitable[object]]) -> None:
    """Fails if an attempt waits for more than the fault itself.

    The bound tells a wait that nobody meant from a machine that others use too.

    Args:
        fault: in seconds.
        attempt: makes the call and checks how it ends.
    """
    async with asyncio.timeout(fault + scaled(8)):
        await attempt()


@pytest.mark.parametrize(
    ("command", "row"),
    [(command, row) for row in REFUSALS for command in COMMANDS]
    + [
        (command, row)
        for number, row in enumerate(LOGS)
        for command in (COMMANDS if FULL else COMMANDS[number % len(COMMANDS) :][:1])
    ],
    ids=str,
)
async def test_a_command_that_fails(command: Command, row: Row, life: Life, fake: FakeRuntime) -> None:
    await prepare(life, fake, command)

    async def attempt() -> None:
        fake.fault(command, row.fault, times=1)
        message = await refused(call(life, fake, command), row.status, *row.words)
        assert message.isprintable()
        assert len(message) < 1500

    async with nothing_left_of_it(life):
        await in_time(0, attempt)
    await works_again(life, fake, command)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("row", AFTER_THE_WORK, ids=str)
async def test_a_command_that_fails_after_its_work(
    command: Command, row: Row, life: Life, fake: FakeRuntime
) -> None:
    await prepare(life, fake, command)

    async def attempt() -> None:
        fake.fault(command, row.fault, times=1)
        await refused(call(life, fake, command), row.status, *row.words)

    # What cannot be undone is as State tells it.
    if command in ("start", "resume"):
        await attempt()
        await runs_to_its_end(life)
        return
    if command == "delete":
        await attempt()
        await works_again(life, fake, command)
        return
    async with nothing_left_of_it(life):
        await in_time(0, attempt)
    await works_again(life, fake, command)


async def test_a_delete_that_fails_after_its_work_by_a_runtime_of_any_name(
    tmp_path: Path, live: Callable[..., Life]
) -> None:
    """Where its state is cannot be known then, so the runtime itself is asked."""
    real = tmp_path / "oci"
    real.symlink_to(shutil.which("runc") or "")
    life = live("sleep", "1000")
    with FakeRuntime(tmp_path, real=str(real)) as fake:
        await prepare(life, fake, "delete")
        fake.fault("delete", Fails(log=FIRE, after=True), times=1)
        await refused(call(life, fake, "delete"), Status.INTERNAL, "fire")
        await works_again(life, fake, "delete")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", HARMLESS, ids=str)
async def test_a_command_that_is_slow_or_talkative_works(
    command: Command, fault: Fault, life: Life, fake: FakeRuntime
) -> None:
    await prepare(life, fake, command)
    fake.fault(command, fault, times=1)
    before = len(fake.calls)

    await call(life, fake, command)

    assert [each.command for each in fake.calls[before:]] == [command]
    assert await life.state() is AFTER[command]
    await ends_well(life, command)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", HANGS, ids=str)
async def test_a_command_that_hangs_costs_its_own_call(
    command: Command, fault: Fault, life: Life, fake: FakeRuntime
) -> None:
    await prepare(life, fake, command)
    before = len(fake.calls)

    async def attempt() -> None:
        fake.fault(command, fault, times=1)
        await too_late(call(life, fake, command, timeout=0.5))
        # On a busy machine the deadline may have come before the command.
        fake.clear()

    async def dies() -> None:
        await eventually(lambda: not any(in_group(each.pid) for each in fake.calls[before:]))

    after = getattr(fault, "after", False)
    if after and command in ("start", "resume"):
        await attempt()
        await dies()
        # What was done is as State tells it; on a busy machine it was not.
        try:
            await call(life, fake, command)
        except GRPCError as error:
            assert error.status is Status.FAILED_PRECONDITION
        await runs_to_its_end(life)
        return
    if after and command == "delete":
        await attempt()
        await works_again(life, fake, command)
        return
    async with nothing_left_of_it(life):
        await in_time(0.5, attempt)
        await dies()
    await works_again(life, fake, command)


@pytest.mark.parametrize("command", COMMANDS)
async def test_others_are_answered_while_a_command_hangs(
    command: Command, life: Life, fake: FakeRuntime
) -> None:
    await prepare(life, fake, command)
    before = len(fake.calls)
    fake.fault(command, Hang(), times=1)
    hanging = asyncio.ensure_future(call(life, fake, command))
    await eventually(lambda: len(fake.calls) > before)
    assert fake.calls[before].command == command

    await life.shim.state(StateRequest())
    async with record(life.shim):
        pass
    status = {"create": Status.NOT_FOUND}.get(command, Status.FAILED_PRECONDITION)
    await refused(life.shim.pty(PtyRequest(pid=life.pid or 2, width=80, height=24)), status)

    assert not hanging.done()
    fake.release()
    await hanging
    assert await life.state() is AFTER[command]
    await ends_well(life, command)


def in_group(group: int) -> list[int]:
    """Returns the processes of a process group that live."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getpgid(int(name)) == group and alive(int(name)):
                    found.append(int(name))
    return found


async def test_other_execs_work_while_one_hangs(life: Life, fake: FakeRuntime) -> None:
    await prepare(life, fake, "exec")
    fake.fault("exec", Hang(), times=1)
    # Whichever of the two meets the fault: once the other is done, no further one can.
    calls = [asyncio.ensure_future(call(life, fake, "exec")) for _ in range(2)]
    _, (hanging,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)

    assert (await life.run("sh", "-c", "echo hello; exit 3")).stdout == "hello\n"
    await life.shim.pause(PauseRequest())
    await life.shim.resume(ResumeRequest())
    assert not hanging.done()
    fake.release()
    await hanging

    assert await life.delete() == KILLED
    assert await life.states() == {}


@pytest.mark.parametrize("command", ["create", "exec"])
@pytest.mark.parametrize("content", WRONG_PIDS, ids=lambda content: repr(content)[:20])
async def test_a_wrong_pid_file(command: Command, content: str | None, life: Life, fake: FakeRuntime) -> None:
    await prepare(life, fake, command)

    async def attempt() -> None:
        fake.fault(command, PidFile(content), times=1)
        await refused(call(life, fake, command), Status.INTERNAL, "pid")

    async with nothing_left_of_it(life):
        await in_time(0, attempt)
    await works_again(life, fake, command)


@pytest.mark.parametrize("command", ["create", "exec"])
async def test_the_pid_of_someone_else_is_not_taken_for_ours(
    command: Command, life: Life, fake: FakeRuntime
) -> None:
    await prepare(life, fake, command)
    # Not our child but our grandchild, in a session of its own.
    script = 'setsid sleep 1000 >/dev/null & echo "$!"; read -r _; kill "$!"; wait'
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        foreign = int(parent.stdout.readline())
        async with nothing_left_of_it(life):
            fake.fault(command, PidFile(str(foreign)), times=1)
            await refused(call(life, fake, command), Status.INTERNAL, "wrong pid")
        assert alive(foreign)
        parent.communicate(b"\n")
    await works_again(life, fake, command)


async def test_the_pid_of_init_is_not_taken_for_an_exec(life: Life, fake: FakeRuntime) -> None:
    await prepare(life, fake, "exec")
    async with nothing_left_of_it(life):
        fake.fault("exec", PidFile(str(life.pid)), times=1)
        await refused(call(life, fake, "exec"), Status.INTERNAL, "pid")
    await works_again(life, fake, "exec")


@pytest.mark.parametrize("command", ["create", "exec"])
@pytest.mark.parametrize("content", ["{pid}\n", " {pid} \n"])
async def test_blanks_around_a_pid_are_no_fault(
    command: Command, content: str, life: Life, fake: FakeRuntime
) -> None:
    await prepare(life, fake, command)
    fake.fault(command, PidFile(content))

    await call(life, fake, command)

    await ends_well(life, command)


@pytest.mark.parametrize("command", ["create", "exec"])
@pytest.mark.parametrize(
    "fault",
    [Console("no connection"), Console("nothing"), Console("text"), Console("a file")],
    ids=str,
)
async def test_no_console(
    command: Command, fault: Console, fake: FakeRuntime, live: Callable[..., Life]
) -> None:
    life = live("sleep", "1000", terminal=command == "create")
    await prepare(life, fake, command)

    async def attempt() -> None:
        fake.fault(command, fault, times=1)
        words = {"no connection": "console", "a file": "terminal"}.get(fault.sends, "")
        await refused(call(life, fake, command, terminal=True), Status.INTERNAL, words)

    async with nothing_left_of_it(life):
        await in_time(1, attempt)
    await call(life, fake, command, terminal=True)
    await ends_well(life, command)


async def test_each_command_fails_once_and_then_works(life: Life, fake: FakeRuntime) -> None:
    """A whole life in which every call has to be made twice."""
    for command in COMMANDS:
        fake.fault(command, Fails(log=FIRE), times=1)

    await refused(call(life, fake, "create"), Status.INTERNAL, "fire")
    # Its `delete` has met the fault that was meant for Delete.
    fake.fault("delete", Fails(log=FIRE), times=1)
    for command in COMMANDS:
        if command != "create":
            await refused(call(life, fake, command), Status.INTERNAL, "fire")
        await call(life, fake, command)

    assert await life.states() == {}


@pytest.mark.parametrize("command", ["state", "delete"])
@pytest.mark.parametrize("fault", [Hang(children=1), Fails(log=error_line("no")), Signalled(9)], ids=str)
async def test_a_clean_up_that_fails_too_does_not_hide_what_was_wrong(
    command: Command, fault: Fault, life: Life, fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is then left is the runtime's own record of a container in which nothing runs."""
    monkeypatch.setattr("shimpy.core.container.create.UNDO_TIMEOUT", 0.5)
    fake.fault("create", Fails(log=FIRE, after=True), times=1)
    fake.fault(command, fault)

    async with asyncio.timeout(5):
        await refused(call(life, fake, "create"), Status.INTERNAL, "the pool is on fire")

    await eventually(lambda: residue.processes(life.id) == [])
    await eventually(lambda: not in_group(fake.calls[-1].pid))
    assert await life.states() == {}
    fake.clear()
    containers.remove(life.id)
    await works_again(life, fake, "create")


async def test_a_create_that_fails_late_takes_init_with_it_whatever_the_runtime_does(
    life: Life, fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it has no cgroup to kill it through, as it may be without root."""
    cgroup, leftovers = Cgroup(), Leftovers([], [], Hierarchies(), "/proc")

    async def fail(io: PlainIO) -> None:
        raise InternalError("nothing is attached")

    monkeypatch.setattr("shimpy.core.container.create.Cgroup.of", lambda _, **__: cgroup)
    monkeypatch.setattr("shimpy.core.container.create.Leftovers.before", lambda *_: leftovers)
    monkeypatch.setattr(PlainIO, "attach", fail)
    before = list(children())
    fake.fault("delete", Fails(log=FIRE), times=1)

    await refused(call(life, fake, "create"), Status.INTERNAL, "nothing is attached")

    assert list(children()) == before
    containers.remove(life.id)


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_that_is_killed_at_some_point(
    command: Command, fake: FakeRuntime, live: Callable[..., Life]
) -> None:
    """As the kernel does it when memory runs out: the runtime alone, not what it has started."""
    after = 0.0
    known_children = list(children())
    while True:
        life = live("sleep", "1000")
        await prepare(life, fake, command)
        known = len(fake.calls)
        attempt = asyncio.ensure_future(call(life, fake, command))
        while len(fake.calls) == known:
            await asyncio.sleep(0)
        await asyncio.wait([attempt], timeout=after)
        if attempt.done():
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(fake.calls[known].pid, signal.SIGKILL)
        try:
            await attempt
        except GRPCError as error:
            state = await life.state()
            died = command == "start" and state is State.STOPPED
            assert error.status is (Status.FAILED_PRECONDITION if died else Status.INTERNAL), error
            assert "killed by signal 9" in (error.message or ""), error
        state = await life.state()
        # Killed between opening the FIFO in which init waits and reading from it, runc takes init with it.
        taken_along = command == "start" and state is State.STOPPED
        assert taken_along or state in (BEFORE[command], AFTER[command])
        if command == "create" and state is None:
            assert residue.cgroups(life.id) == []
            assert containers.left(life.id) == []
        if state is BEFORE[command]:
            await call(life, fake, command)
        if command != "delete":
            assert await life.delete() == KILLED or taken_along
        await eventually(lambda: list(children()) == known_children)
        # Finer at the beginning, and never many: a busy machine stretches what is between.
        after = after * (1 + rounds(30, 3) / 100) + 0.002
    await attempt
    assert await life.state() is AFTER[command]
