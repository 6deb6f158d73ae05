"""Delete of an exec: what it started goes with it, wherever it went and whatever holds it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from grpclib.const import Status

from shimpy.api import PauseRequest, ResumeRequest, StateRequest
from tests.support import residue
from tests.support.fifos import Fifo
from tests.support.kinds import EXEC_ADDED, EXIT, PAUSED, RUNNING, STOPPED
from tests.support.leaks import FIRST_INOTIFY, alive, descriptors, eventually, memory, threads
from tests.support.lives import KILLED, Life, refused
from tests.support.rounds import FULL, rounds

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

Prepare = Callable[..., Life]
SLEEP = ("sleep", "1000")
LISTED = 4096

# What a program may leave behind that its own end does not touch; each says "up" when it stands.
BACKGROUND = "sleep 600 & echo up"
DAEMON = "(setsid sh -c 'sleep 600 & exec sleep 601' </dev/null &) ; echo up"
WITHOUT_OUTPUT = "(setsid sleep 600 </dev/null >/dev/null 2>&1 &) ; echo up"
LEFT = {"background": BACKGROUND, "daemon": DAEMON, "daemon without output": WITHOUT_OUTPUT}

NAMESPACES = pytest.mark.parametrize("own_pid_namespace", [True, False], ids=["own pids", "shared pids"])


async def running(live: Prepare, *args: str, **options: Any) -> Life:
    life = live(*(args or SLEEP), **options)
    await life.create()
    await life.start()
    return life


@NAMESPACES
@pytest.mark.parametrize("program", LEFT.values(), ids=LEFT)
async def test_what_a_program_leaves_behind_holds_up_nothing(
    live: Prepare, fifo: Callable[[str], Fifo], own_pid_namespace: bool, program: str
) -> None:
    """EXIT comes with the program's own end, the output is whole, Delete is quick, and then all is gone."""
    life = await running(live, own_pid_namespace=own_pid_namespace)
    output = fifo("output")
    reading = output.read()
    pid = await life.exec("sh", "-c", f"{program}; exit 5", stdout=str(output))
    # The bound is 100 ms, on a machine that is not busy; of 600 seconds there is no trace.
    async with asyncio.timeout(10):
        assert await life.exit_of(pid) == 5
        left = set(residue.processes(life.id)) - {life.pid}
        assert left != set()
        assert (await life.states())[pid] is STOPPED
        assert await life.delete(pid) == 5
        assert await reading == b"up\n"
    assert residue.processes(life.id) == [life.pid]
    assert not any(alive(each) for each in left)
    assert await life.state() is RUNNING


async def test_an_exit_with_a_sleeper_left_is_told_at_once(
    live: Prepare, fifo: Callable[[str], Fifo]
) -> None:
    """Within 100 ms of the end of the program, in the best of some tries."""
    life = await running(live)
    took = []
    for number in range(5):
        output = fifo(f"output{number}")
        reading = output.read_some(3)
        pid = await life.exec("sh", "-c", BACKGROUND, stdout=str(output))
        assert await reading == b"up\n"
        begun = time.perf_counter()
        await life.exit_of(pid)
        took.append(time.perf_counter() - begun)
        assert await life.delete(pid) == 0
    assert min(took) < 0.1


@NAMESPACES
async def test_delete_kills_a_running_exec_and_all_that_it_started(
    live: Prepare, own_pid_namespace: bool
) -> None:
    life = await running(live, own_pid_namespace=own_pid_namespace)
    spared = await life.exec(*SLEEP)
    pid = await life.exec("sh", "-c", f"{BACKGROUND}; {DAEMON}; {WITHOUT_OUTPUT}; exec sleep 602")
    await eventually(lambda: len(residue.processes(life.id)) == 7)
    assert await life.delete(pid) == KILLED
    assert await life.exit_of(pid) == KILLED
    assert life.recorder.of(pid) == [EXEC_ADDED, EXIT]
    assert set(residue.processes(life.id)) == {life.pid, spared}
    assert list(await life.states()) == [life.pid, spared]


@NAMESPACES
async def test_delete_outruns_a_fork_bomb(live: Prepare, own_pid_namespace: bool) -> None:
    """What forks while it is being killed is killed with it."""
    life = await running(
        live,
        own_pid_namespace=own_pid_namespace,
        change=lambda spec: spec["linux"].setdefault("resources", {}).update(pids={"limit": 5000}),
    )
    bomb = "f() { while :; do sleep 0.01 & (setsid sleep 0.02 &); done; }; f & f & f & exec sleep 603"
    pid = await life.exec("sh", "-c", bomb)
    await eventually(lambda: len(residue.processes(life.id)) > 5)
    async with asyncio.timeout(20):
        assert await life.delete(pid) == KILLED
    assert residue.processes(life.id) == [life.pid]


@NAMESPACES
async def test_delete_in_a_paused_container(live: Prepare, own_pid_namespace: bool) -> None:
    """The exec dies, frozen as it is, with what it started; the container stays paused."""
    life = await running(live, own_pid_namespace=own_pid_namespace)
    spared = await life.exec(*SLEEP)
    pid = await life.exec("sh", "-c", f"{DAEMON}; exec sleep 602")
    await eventually(lambda: len(residue.processes(life.id)) == 5)
    await life.shim.pause(PauseRequest())
    async with asyncio.timeout(15):
        assert await life.delete(pid) == KILLED
    assert set(residue.processes(life.id)) == {life.pid, spared}
    assert await life.states() == {life.pid: PAUSED, spared: PAUSED}
    await life.shim.resume(ResumeRequest())
    assert await life.states() == {life.pid: RUNNING, spared: RUNNING}
    assert (await life.run("echo", "on")).stdout == "on\n"


async def test_delete_of_an_exec_that_has_stopped_in_a_paused_container(live: Prepare) -> None:
    life = await running(live)
    pid = await life.exec("sh", "-c", f"{WITHOUT_OUTPUT}; exit 4")
    assert await life.exit_of(pid) == 4
    await life.shim.pause(PauseRequest())
    async with asyncio.timeout(15):
        assert await life.delete(pid) == 4
    assert residue.processes(life.id) == [life.pid]
    assert await life.state() is PAUSED


async def test_delete_before_start(live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    pid = await life.exec("sh", "-c", f"{DAEMON}; exec sleep 602")
    await eventually(lambda: len(residue.processes(life.id)) == 4)
    assert await life.delete(pid) == KILLED
    assert residue.processes(life.id) == [life.pid]
    await life.start()
    assert await life.state() is RUNNING


async def test_delete_spares_what_another_exec_has_left(live: Prepare) -> None:
    life = await running(live)
    one, other = [await life.exec("sh", "-c", WITHOUT_OUTPUT) for _ in range(2)]
    for pid in (one, other):
        assert await life.exit_of(pid) == 0
    assert len(residue.processes(life.id)) == 3
    assert await life.delete(one) == 0
    assert len(residue.processes(life.id)) == 2
    assert await life.delete(other) == 0
    assert residue.processes(life.id) == [life.pid]


@NAMESPACES
async def test_delete_of_the_container_takes_its_execs_with_it(
    live: Prepare, own_pid_namespace: bool
) -> None:
    """One EXIT for each, and init's is the last; what stopped execs have left goes too."""
    life = await running(live, own_pid_namespace=own_pid_namespace)
    living = [await life.exec("sh", "-c", f"{DAEMON}; exec sleep 602") for _ in range(5)]
    gone = [await life.exec("sh", "-c", WITHOUT_OUTPUT) for _ in range(5)]
    for pid in gone:
        assert await life.exit_of(pid) == 0
    assert await life.delete() == KILLED
    assert await life.exit_of(life.pid) == KILLED
    for pid in living + gone:
        assert life.recorder.of(pid) == [EXEC_ADDED, EXIT]
    assert life.recorder.seen[-1].pid == life.pid
    assert residue.cgroups(life.id) == []
    await refused(life.delete(living[0]), Status.NOT_FOUND, str(living[0]))


@NAMESPACES
async def test_init_takes_its_execs_with_it(live: Prepare, own_pid_namespace: bool) -> None:
    """Init dies of itself: the execs go, are told before it, and stay listed until they are deleted."""
    life = await running(live, own_pid_namespace=own_pid_namespace)
    pids = [await life.exec("sh", "-c", f"{DAEMON}; exec sleep 602") for _ in range(5)]
    os.kill(life.pid, signal.SIGTERM if not own_pid_namespace else signal.SIGKILL)
    status = await life.exit_of(life.pid)
    assert status == 128 + (signal.SIGTERM if not own_pid_namespace else signal.SIGKILL)
    for pid in pids:
        assert life.recorder.of(pid) == [EXEC_ADDED, EXIT]
    assert life.recorder.seen[-1].pid == life.pid
    assert await life.states() == dict.fromkeys([life.pid, *pids], STOPPED)
    assert residue.processes(life.id) == []
    assert await life.delete(pids[0]) == KILLED
    await refused(life.exec("true"), Status.FAILED_PRECONDITION, "stopped")
    assert await life.delete() == status


@NAMESPACES
async def test_concurrent_deletes_of_init_and_its_execs(live: Prepare, own_pid_namespace: bool) -> None:
    life = await running(live, own_pid_namespace=own_pid_namespace)
    pids = [await life.exec(*SLEEP) for _ in range(5)]
    answers = await asyncio.gather(
        *(life.delete(pid) for pid in [*pids, life.pid, *pids]), return_exceptions=True
    )
    assert answers[5] == KILLED
    assert await life.exit_of(life.pid) == KILLED
    # Who came second may find it deleted with the container already.
    assert {getattr(answer, "status", answer) for answer in answers} <= {KILLED, Status.NOT_FOUND}
    for pid in pids:
        assert life.recorder.of(pid) == [EXEC_ADDED, EXIT]
    assert life.recorder.seen[-1].pid == life.pid


# -- nothing grows -------------------------------------------------------------------------------


async def test_execs_with_delete_cost_nothing_that_stays(live: Prepare, fifo: Callable[[str], Fifo]) -> None:
    """File descriptors, threads and tasks are flat, and memory grows by 1 MB at the most."""
    life = await running(live)
    output = str(fifo("output"))

    async def some(count: int) -> None:
        for _ in range(count // 10):
            pids = await asyncio.gather(*(life.exec("true", stdin=output, stdout=output) for _ in range(10)))
            for pid in pids:
                await life.exit_of(pid)
            assert await asyncio.gather(*map(life.delete, pids)) == [0] * 10
            life.recorder.seen.clear()

    def held() -> Counter[str]:
        return (
            Counter(descriptors().values())
            - FIRST_INOTIFY
            + Counter(threads=threads(), tasks=residue.tasks())
        )

    await some(rounds(10, 500))
    before, used = held(), memory()
    await some(rounds(40, 5000))
    await eventually(lambda: held() <= before)
    if FULL:
        assert memory() - used < 1 << 20
    assert list(await life.states()) == [life.pid]


async def test_execs_without_delete_are_bounded(live: Prepare) -> None:
    """The 4,096 latest of those that have exited stay listed; the oldest gives way."""
    from shimpy.services.shim_v1 import pid_index

    listed = rounds(20, LISTED)
    assert pid_index.MAX_EXITED == LISTED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pid_index, "MAX_EXITED", listed)
        life = await running(live)
        living = await life.exec(*SLEEP)
        pids: list[int] = []
        for _ in range(rounds(4, 500)):
            more = await asyncio.gather(*(life.exec("true") for _ in range(10)))
            for pid in more:
                await life.exit_of(pid)
            pids = [pid for pid in pids if pid not in more] + more
            life.recorder.seen.clear()
        states = (await life.shim.state(StateRequest())).processes
        # In a batch of ten they exit in any order, and so does the oldest give way.
        assert len(states) == 2 + listed
        assert [states[0].pid, states[1].pid] == [life.pid, living]
        assert {each.pid for each in states[12:]} <= set(pids[-listed - 10 :])
        assert len(descriptors()) < 100
        assert await life.delete(states[-1].pid) == 0
        assert len(await life.states()) == 1 + listed
