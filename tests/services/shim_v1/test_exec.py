"""Exec: what a further process is given, many at once, and a runtime that does not come back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status

from shimpy.api import Event, ExecRequest, PauseRequest, PtyRequest, ResumeRequest, Rlimit, StateRequest, User
from shimpy.testing import FakeRuntime, Hang
from tests.support.events import record
from tests.support.fifos import Fifo
from tests.support.kinds import EXEC_ADDED, EXIT, PAUSED, RUNNING, STOPPED
from tests.support.leaks import alive, children, eventually
from tests.support.lives import KILLED, Life, lives, refused, too_late
from tests.support.machine import RUNTIME
from tests.support.rounds import rounds
from tests.support.servers import Server
from tests.support.time_scale import scaled

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

Prepare = Callable[..., Life]
SLEEP = ("sleep", "1000")
CAPABILITIES = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_NET_BIND_SERVICE": 10, "CAP_SYS_CHROOT": 18}


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    with FakeRuntime() as fake:
        yield fake


async def running(live: Prepare, *, runtime: str = "", **options: Any) -> Life:
    life = live(*SLEEP, **options)
    await life.create(runtime=runtime)
    await life.start()
    return life


def fields(status: str) -> dict[str, str]:
    """The lines of a /proc/PID/status, by name (proc_pid_status(5))."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}


def mask(*names: str) -> str:
    """A set of capabilities as the kernel writes it."""
    return f"{sum(1 << CAPABILITIES[name] for name in names):016x}"


WHO = "id -u; id -g; id -G; pwd; echo $A; ulimit -n; ulimit -Hn; ulimit -c"


# -- what it is given ----------------------------------------------------------------------------


async def test_what_is_asked_for_is_what_it_gets(live: Prepare) -> None:
    life = await running(live, env={"A": "container"})
    asked = {
        "user": User(uid=1234, gid=2345, additional_gids=[34, 45]),
        "env": ["A=of the exec", "PATH=/bin"],
        "cwd": "/etc",
        # Soft as hard: Go's own start-up in runc 1.1 raises this one's soft limit, at times after it was set.
        "rlimits": [Rlimit("RLIMIT_NOFILE", hard=100, soft=100), Rlimit("RLIMIT_CORE", hard=0, soft=0)],
    }
    ended = await life.run("sh", "-c", WHO, **asked)
    assert ended.stdout.split("\n") == [
        "1234",
        "2345",
        "2345 34 45",
        "/etc",
        "of the exec",
        "100",
        "100",
        "0",
        "",
    ]
    env = await life.run("/bin/env", env=["ONLY=this", "EMPTY="])
    assert set(env.stdout.splitlines()) >= {"ONLY=this", "EMPTY="}
    assert "A=container" not in env.stdout.splitlines()


async def test_what_is_not_asked_for_is_the_containers(live: Prepare) -> None:
    life = await running(
        live,
        env={"A": "of the container"},
        cwd="/tmp",
        process={
            "user": {"uid": 1000, "gid": 1001, "additionalGids": [7, 8]},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": 300, "soft": 300},
                {"type": "RLIMIT_CORE", "hard": 512, "soft": 512},
            ],
        },
    )
    ended = await life.run("sh", "-c", WHO)
    assert ended.stdout.split("\n") == [
        "1000",
        "1001",
        "1001 7 8",
        "/tmp",
        "of the container",
        "300",
        "300",
        "1",
        "",
    ]
    same = (
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Umask",
    )
    its = fields((await life.run("cat", "/proc/self/status")).stdout)
    inits = fields((await life.run("cat", "/proc/1/status")).stdout)
    assert {name: its[name] for name in same} == {name: inits[name] for name in same}


async def test_capabilities(live: Prepare) -> None:
    """Bounding, effective and permitted; never inheritable or ambient."""
    life = await running(live)
    asked = ["CAP_CHOWN", "CAP_SYS_CHROOT"]
    status = fields((await life.run("cat", "/proc/self/status", capabilities=asked)).stdout)
    for name in ("CapBnd", "CapPrm", "CapEff"):
        assert status[name] == mask(*asked), name
    for name in ("CapInh", "CapAmb"):
        assert status[name] == mask(), name
    # A program without file capabilities gives them up with its user: capabilities(7).
    user = User(uid=1000, gid=1000)
    status = fields((await life.run("cat", "/proc/self/status", capabilities=asked, user=user)).stdout)
    assert status["CapBnd"] == mask(*asked)
    for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert status[name] == mask(), name


@pytest.mark.parametrize("containers", [False, True])
@pytest.mark.parametrize("asked", [False, True])
async def test_no_new_privileges_holds_if_either_asks_for_it(
    live: Prepare, containers: bool, asked: bool
) -> None:
    life = await running(live, process={"noNewPrivileges": containers})
    status = fields((await life.run("cat", "/proc/self/status", no_new_privileges=asked)).stdout)
    assert status["NoNewPrivs"] == str(int(containers or asked))


async def test_a_user_of_zeros_is_a_user(live: Prepare) -> None:
    """Root is asked for by a user message that is there but empty, as any client sends it."""
    life = await running(live, user=(1000, 1000))
    assert (await life.run("id", "-u")).stdout == "1000\n"
    assert (await life.run("id", "-u", user=User(uid=0, gid=5))).stdout == "0\n"
    assert (await life.run("id", "-u", user=User(additional_gids=[5]))).stdout == "0\n"


async def test_a_user_message_without_a_field_is_root(
    server: Server, foreign: Any, bundle: Any, new_id: Any
) -> None:
    """On the wire the empty message differs from none at all, and Google's client can send it."""
    import grpc

    messages, stubs = foreign
    output = server.directory / "output"
    output.touch()

    def drive() -> None:
        with grpc.insecure_channel(f"unix:{server.socket}") as channel:
            shim = stubs.ShimStub(channel)
            path = bundle(*SLEEP, user=(1000, 1000))
            init = shim.Create(messages.CreateRequest(id=new_id(), bundle=path)).pid
            shim.Start(messages.StartRequest())
            events = shim.Events(messages.EventsRequest())
            for user in (None, messages.User()):
                request = messages.ExecRequest(args=["id", "-u"], stdout=str(output), user=user)
                pid = shim.Exec(request).pid
                next(event for event in events if event.type == messages.EXIT and event.pid == pid)
            events.cancel()
            shim.Delete(messages.DeleteRequest(pid=init))

    await asyncio.to_thread(drive)
    assert output.read_text() == "1000\n0\n"


async def test_labels_and_profiles_are_handed_to_the_runtime(fake: FakeRuntime, live: Prepare) -> None:
    """Few machines have both; what counts is what the runtime is told."""
    life = await running(
        live,
        runtime=fake.path,
        change=lambda spec: spec["process"].update(consoleSize={"height": 5, "width": 5}),
    )

    async def told(**asked: Any) -> dict[str, Any]:
        fake.fault("exec", Hang())
        call = asyncio.create_task(life.exec("true", **asked))
        before = len(fake.calls)
        await eventually(lambda: len(fake.calls) > before and fake.calls[-1].command == "exec")
        (path,) = [word.partition("=")[2] for word in fake.calls[-1].argv if word.startswith("--process=")]
        process: dict[str, Any] = json.loads(Path(path).read_text())
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        fake.release()
        return process

    process = await told(apparmor_profile="a profile", selinux_label="a:b:c:d", no_new_privileges=True)
    assert process["apparmorProfile"] == "a profile"
    assert process["selinuxLabel"] == "a:b:c:d"
    assert process["noNewPrivileges"] is True
    assert process["terminal"] is False
    assert "consoleSize" not in process
    process = await told()
    assert "apparmorProfile" not in process
    assert "selinuxLabel" not in process
    assert process["args"] == ["true"]


async def test_arguments_and_variables_of_every_kind(live: Prepare) -> None:
    life = await running(live)
    words = ["", " ", "a b", "$HOME", "`id`", "'", '"', "\\", "\n", "\t", "-n", "ä€😀", "=", "x" * 60_000]
    script = 'for word; do printf "%s|" "$word"; done'
    ended = await life.run("sh", "-c", script, "sh", *words)
    assert ended.stdout == "".join(f"{word}|" for word in words)
    env = ["A==", "B=a b\n", "C=", "D=ä€😀", "PATH=/bin"]
    ended = await life.run("sh", "-c", 'printf "%s|%s|%s|%s" "$A" "$B" "$C" "$D"', env=env)
    assert ended.stdout == "=|a b\n||ä€😀"


AWKWARD_START = """
import os, signal, sys
os.umask(0o077)
for name in ("SIGCHLD", "SIGHUP", "SIGUSR1"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD, signal.SIGWINCH])
with open("/proc/self/oom_score_adj", "w") as file:
    file.write(sys.argv[1])
os.dup2(1, 50)  # a file descriptor that somebody left open
os.execvp(sys.argv[2], sys.argv[2:])
"""


def _scores() -> list[int]:
    """Scores that a process of this machine may have; one below its own takes a right of its own."""
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    try:
        own.write_text("-300")
    except PermissionError:
        return [300]
    own.write_text(before)
    return [300, -300]


@pytest.mark.parametrize("score", _scores())
async def test_nothing_of_the_shims_own_surroundings(
    start_server: Callable[..., Server],
    bundle: Callable[..., str],
    new_id: Callable[[], str],
    tmp_path: Path,
    score: int,
) -> None:
    """File descriptors, signals, umask and OOM score are the container's, however the shim was started."""
    server = start_server(before=[sys.executable, "-c", AWKWARD_START, str(score)])
    assert Path(f"/proc/{server.pid}/oom_score_adj").read_text() == f"{score}\n"
    stub = server.stub()
    async with record(stub) as recorder, lives(stub, recorder, bundle, new_id, tmp_path) as live:
        life = await running(live)
        for pid in (life.pid, await life.exec(*SLEEP), await life.exec(*SLEEP, terminal=True)):
            process = Path("/proc", str(pid))
            await eventually(lambda: process.joinpath("cmdline").read_bytes() == b"sleep\0001000\0")  # noqa: B023
            assert sorted(os.listdir(process / "fd")) == ["0", "1", "2"]
            seen = fields(process.joinpath("status").read_text())
            assert (seen["SigBlk"], seen["SigIgn"]) == ("0" * 16, "0" * 16)
            assert seen["Umask"] == "0022"
            assert process.joinpath("oom_score_adj").read_text() == "0\n"
        await life.delete()
    assert await server.terminated() == 0


async def test_umask_and_oom_score_of_the_spec(live: Prepare) -> None:
    life = await running(live, process={"user": {"uid": 0, "gid": 0, "umask": 0o027}, "oomScoreAdj": 123})
    for user in (None, User(uid=1000, gid=1000)):
        ended = await life.run("sh", "-c", "umask; cat /proc/self/oom_score_adj", user=user)
        # crun applies the score to init alone, and an exec has its parent's: that of the shim.
        score = Path("/proc/self/oom_score_adj").read_text() if RUNTIME == "crun" else "123\n"
        assert ended.stdout == "0027\n" + score


async def test_the_oom_score_of_the_spec_is_in_place_of_the_shims(
    start_server: Callable[..., Server],
    bundle: Callable[..., str],
    new_id: Callable[[], str],
    tmp_path: Path,
) -> None:
    server = start_server(before=[sys.executable, "-c", AWKWARD_START, "300"])
    stub = server.stub()
    async with record(stub) as recorder, lives(stub, recorder, bundle, new_id, tmp_path) as live:
        life = await running(live, process={"oomScoreAdj": 400})
        for pid in (life.pid, await life.exec(*SLEEP)):
            score = Path(f"/proc/{pid}/oom_score_adj").read_text()
            assert score == ("0\n" if RUNTIME == "crun" and pid != life.pid else "400\n")
        await life.delete()


# -- in order, and many at once ------------------------------------------------------------------


async def test_exec_before_start(live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    assert (await life.run("echo", "early")).stdout == "early\n"
    await life.start()
    assert (await life.run("echo", "late")).stdout == "late\n"


async def test_state_lists_execs_in_order_of_start(live: Prepare) -> None:
    life = await running(live)
    pids = [await life.exec(*SLEEP) for _ in range(3)]
    assert list((await life.states()).items()) == [(pid, RUNNING) for pid in [life.pid, *pids]]
    os.kill(pids[1], signal.SIGTERM)
    assert await life.exit_of(pids[1]) == 128 + signal.SIGTERM
    assert (await life.states())[pids[1]] is STOPPED
    await life.shim.pause(PauseRequest())
    assert list((await life.states()).values()) == [PAUSED, PAUSED, STOPPED, PAUSED]
    await life.shim.resume(ResumeRequest())
    assert await life.delete(pids[1]) == 128 + signal.SIGTERM
    assert list(await life.states()) == [life.pid, pids[0], pids[2]]


async def test_forty_at_once(live: Prepare) -> None:
    """Each has EXEC_ADDED and then EXIT once, with its own status."""
    life = await running(live)
    statuses = dict(
        zip(
            await asyncio.gather(*(life.exec("sh", "-c", f"exit {status}") for status in range(40))),
            range(40),
            strict=True,
        )
    )
    assert len(statuses) == 40
    for pid, status in statuses.items():
        assert await life.exit_of(pid) == status
        assert life.recorder.of(pid) == [EXEC_ADDED, EXIT]
    states = await life.states()
    assert all(states[pid] is STOPPED for pid in statuses)
    assert await asyncio.gather(*map(life.delete, statuses)) == list(range(40))
    assert list(await life.states()) == [life.pid]


async def test_a_program_that_ends_before_the_runtime_does(live: Prepare) -> None:
    life = await running(live)
    life.recorder.seen.clear()
    for number in range(rounds(20, 2000)):
        status = number % 256
        pid = await life.exec("sh", "-c", f"exit {status}")
        await life.recorder.wait_for(EXIT)
        assert life.recorder.seen == [Event(life.id, EXEC_ADDED, pid), Event(life.id, EXIT, pid, status)]
        assert await life.delete(pid) == status
        # The kernel gives pids out again.
        life.recorder.seen.clear()


async def test_a_program_that_is_long_dead_when_the_runtime_returns(fake: FakeRuntime, live: Prepare) -> None:
    """It has been dead before anybody knew of it, and EXIT still comes after EXEC_ADDED."""
    life = await running(live, runtime=fake.path)
    fake.fault("exec", Hang(seconds=0.2, after=True))
    pids = await asyncio.gather(*(life.exec("sh", "-c", f"exit {status}") for status in range(10)))
    for status, pid in enumerate(pids):
        assert await life.exit_of(pid) == status
        assert life.recorder.of(pid) == [EXEC_ADDED, EXIT]


# -- a runtime that does not come back -----------------------------------------------------------


async def test_a_runtime_that_hangs_costs_only_the_call_that_made_it(
    fake: FakeRuntime, live_served: Prepare
) -> None:
    life = live_served(*SLEEP, terminal=True)
    await life.create(runtime=fake.path, terminal=True)
    await life.start()
    fake.fault("exec", Hang(seconds=60, children=2), times=1)
    stuck = asyncio.create_task(life.exec(*SLEEP))
    await eventually(lambda: fake.calls[-1].command == "exec")
    group = fake.calls[-1].pid

    async def events() -> None:
        async with record(life.shim):
            pass

    quick: dict[str, Callable[[], Any]] = {
        "State": lambda: life.shim.state(StateRequest()),
        "Pty": lambda: life.shim.pty(PtyRequest(life.pid, 80, 24)),
        "Events": events,
    }
    for name, call in quick.items():
        took = []
        for _ in range(20):
            begun = time.perf_counter()
            await call()
            took.append(time.perf_counter() - begun)
        assert min(took) < scaled(0.05), name
    # These run the runtime themselves, on a machine that may be busy; of 60 seconds there is no trace.
    async with asyncio.timeout(15):
        assert (await life.run("echo", "other")).stdout == "other\n"
        await life.shim.pause(PauseRequest())
        await life.shim.resume(ResumeRequest())
    assert not stuck.done()
    stuck.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stuck
    await eventually(lambda: not alive(group))
    assert list(await life.states()) == [life.pid]


@pytest.mark.parametrize("after", [False, True], ids=["before it works", "after it worked"])
@pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "terminal"])
async def test_the_deadline_of_a_stuck_exec(
    fake: FakeRuntime, live_served: Prepare, server: Server, after: bool, terminal: bool
) -> None:
    """Its process group is killed, and with it what it has started; the same call works again."""
    life = await running(live_served, runtime=fake.path)
    fake.fault("exec", Hang(seconds=60, children=1, after=after, ignore_sigterm=True))
    request = ExecRequest(args=list(SLEEP), terminal=terminal)
    for _ in range(3):
        await too_late(life.shim.exec(request, timeout=0.3))
    await eventually(lambda: set(children(server.pid)) == {life.pid})
    assert list(await life.states()) == [life.pid]
    fake.clear("exec")
    pid = (await life.shim.exec(request)).pid
    await life.recorder.wait_for(EXEC_ADDED, pid)
    assert life.recorder.of(pid) == [EXEC_ADDED]
    assert await life.delete(pid) == KILLED


async def test_delete_of_a_container_with_a_stuck_exec(fake: FakeRuntime, live_served: Prepare) -> None:
    """Delete of init does not wait for the runtime, and the exec is told why it has failed."""
    life = await running(live_served, runtime=fake.path)
    fake.fault("exec", Hang(seconds=60, children=1))
    stuck = asyncio.create_task(life.exec(*SLEEP))
    await eventually(lambda: fake.calls[-1].command == "exec")
    async with asyncio.timeout(15):
        assert await life.delete() == KILLED
    await refused(stuck, Status.FAILED_PRECONDITION, "deleted")


async def test_init_that_dies_beside_a_stuck_exec(fake: FakeRuntime, live_served: Prepare) -> None:
    life = await running(live_served, runtime=fake.path)
    fake.fault("exec", Hang(seconds=60, children=1))
    stuck = asyncio.create_task(life.exec(*SLEEP))
    await eventually(lambda: fake.calls[-1].command == "exec")
    os.kill(life.pid, signal.SIGKILL)
    async with asyncio.timeout(15):
        await refused(stuck, Status.FAILED_PRECONDITION, "stopped")
        assert await life.exit_of(life.pid) == KILLED


async def test_a_fifo_that_nobody_opens_holds_up_nobody(live: Prepare, fifo: Callable[[str], Fifo]) -> None:
    names = (fifo(f"fifo{number}") for number in itertools.count())
    life = await running(live)
    async with asyncio.timeout(15):
        pid = await life.exec("cat", stdin=str(next(names)), stdout=str(next(names)), stderr=str(next(names)))
        assert (await life.run("true")).status == 0
        assert await life.delete(pid) == KILLED
