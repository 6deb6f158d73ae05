"""Everything at once: execs without end, and an init that dies, is deleted or paused in the midst of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from shimpy.api import EventType, PauseRequest, ResumeRequest, ShimStub
from tests.support import residue
from tests.support.events import record
from tests.support.kinds import CREATE, EXEC_ADDED, EXIT, START, STOPPED
from tests.support.leaks import eventually
from tests.support.lives import KILLED, Life, lives
from tests.support.rounds import rounds
from tests.support.servers import Server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.timeout(rounds(60, 7200)),
]

Prepare = Callable[..., Life]
SLEEP = ("sleep", "1000")

# What a storm consists of: short and long programs, with children and without.
PROGRAMS = (
    ("true",),
    ("sh", "-c", "exit 7"),
    ("sleep", "0.02"),
    ("sleep", "1000"),
    ("sh", "-c", "sleep 1000 & exit 3"),
    ("sh", "-c", "(setsid sleep 1000 &); sleep 0.05"),
)

# What an exec, or a Delete, is told that was overtaken.
OVERTAKEN = {Status.FAILED_PRECONDITION, Status.NOT_FOUND}

# What it is told in words when there is nothing left to exec in.
GONE = ("stopped", "deleted", "no container")


class Storm:
    """Execs, some of them deleted again, from several tasks at once.

    Attributes:
        returned: the pids that were returned.
        deleted: the statuses that Delete gave.
    """

    def __init__(self, life: Life, *, terminals: bool = False) -> None:
        self.returned: list[int] = []
        self.deleted: dict[int, int] = {}
        self._life = life
        self._terminals = terminals

    @contextlib.asynccontextmanager
    async def blowing(self, width: int) -> AsyncIterator[None]:
        """It blows for the time of the block, and until all that is under way has its answer."""
        over = asyncio.Event()
        tasks = [asyncio.create_task(self._blow(over)) for _ in range(width)]
        try:
            yield
        finally:
            over.set()
            async with asyncio.timeout(60):
                await asyncio.gather(*tasks)

    async def _blow(self, over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                terminal = self._terminals and random.random() < 0.3
                pid = await self._life.exec(*random.choice(PROGRAMS), terminal=terminal)
                self.returned.append(pid)
                if random.random() < 0.3:
                    self.deleted[pid] = await self._life.delete(pid)
            except GRPCError as error:
                assert error.status in OVERTAKEN, error
                if error.status is Status.FAILED_PRECONDITION:
                    assert error.message is not None
                    if any(word in error.message for word in GONE):
                        return
                    assert "paus" in error.message or "resum" in error.message, error
                    await asyncio.sleep(0.001)


async def check(life: Life, storm: Storm) -> None:
    """Every pid that was returned has EXEC_ADDED and then EXIT, once each; init's EXIT is the last."""
    # Its reply may be read before what was published ahead of it: these are two streams.
    await life.exit_of(life.pid)
    seen = life.recorder.seen
    kinds: dict[int, list[EventType]] = {}
    for event in seen:
        kinds.setdefault(event.pid, []).append(event.type)
    assert kinds.pop(life.pid) == [CREATE, START, EXIT]
    assert (seen[-1].pid, seen[-1].type) == (life.pid, EXIT)
    returned = Counter(storm.returned)
    for pid, count in returned.items():
        # The kernel may have given one pid twice.
        assert kinds.get(pid) == [EXEC_ADDED, EXIT] * count, pid
    # An exec whose answer was overtaken may have been told of; then it is told whole.
    for pid, of in kinds.items():
        assert of == [EXEC_ADDED, EXIT] * (len(of) // 2), pid
    statuses = {event.pid: event.exit_status for event in seen if event.type == EXIT}
    for pid, status in storm.deleted.items():
        if returned[pid] == 1:
            assert statuses[pid] == status


@pytest.fixture(params=[True, False], ids=["own pids", "shared pids"])
def own_pid_namespace(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def begin(live: Prepare, *, own_pid_namespace: bool = True) -> Life:
    life = live(*SLEEP, own_pid_namespace=own_pid_namespace)
    life.recorder.seen.clear()
    await life.create()
    await life.start()
    return life


async def test_init_dies_under_a_storm_of_execs(live: Prepare, own_pid_namespace: bool) -> None:
    for _ in range(rounds(2, 150)):
        life = await begin(live, own_pid_namespace=own_pid_namespace)
        storm = Storm(life)
        async with storm.blowing(6):
            await asyncio.sleep(random.uniform(0, 0.3))
            os.kill(life.pid, signal.SIGKILL)
            assert await life.exit_of(life.pid) == KILLED
        await check(life, storm)
        # EXIT tells that its processes have ended; what these have left behind is just being killed.
        await eventually(lambda: residue.processes(life.id) == [])  # noqa: B023
        assert set((await life.states()).values()) == {STOPPED}
        assert await life.delete() == KILLED


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
async def test_delete_under_a_storm_of_execs(live: Prepare, own_pid_namespace: bool, paused: bool) -> None:
    for _ in range(rounds(2, 150)):
        life = await begin(live, own_pid_namespace=own_pid_namespace)
        storm = Storm(life, terminals=not paused)
        async with storm.blowing(5):
            await asyncio.sleep(random.uniform(0, 0.2))
            if paused:
                await life.shim.pause(PauseRequest())
            async with asyncio.timeout(30):
                assert await life.delete() == KILLED
        await check(life, storm)
        assert residue.cgroups(life.id) == []


async def test_pauses_in_a_storm_of_execs(live: Prepare) -> None:
    """An exec is refused while the container is paused, or waits for it; none is lost."""
    life = await begin(live)
    storm = Storm(life)
    async with storm.blowing(4):
        for _ in range(rounds(3, 300)):
            await asyncio.sleep(random.uniform(0, 0.05))
            await life.shim.pause(PauseRequest())
            await asyncio.sleep(random.uniform(0, 0.02))
            await life.shim.resume(ResumeRequest())
    assert await life.delete() == KILLED
    await check(life, storm)


async def test_calls_that_are_broken_off_in_a_storm(live: Prepare) -> None:
    """A client that goes loses its answer; what was told of is told whole, and nothing else is left."""
    life = await begin(live)
    storm = Storm(life)

    async def impatient() -> None:
        for _ in range(rounds(3, 200)):
            call = asyncio.create_task(life.exec(*random.choice(PROGRAMS)))
            await asyncio.sleep(random.uniform(0, 0.05))
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call

    async with storm.blowing(3), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(impatient())
    assert await life.delete() == KILLED
    await check(life, storm)
    assert residue.cgroups(life.id) == []


async def test_many_shims_of_one_machine_in_a_storm(
    start_server: Callable[..., Server], bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    """Each in a process of its own; none meets the children of another."""

    async def one(shim: ShimStub, directory: Path) -> None:
        directory.mkdir()
        async with record(shim) as recorder, lives(shim, recorder, bundle, new_id, directory) as live:
            for _ in range(rounds(1, 30)):
                life = await begin(live)
                storm = Storm(life)
                async with storm.blowing(2):
                    await asyncio.sleep(random.uniform(0, 0.5))
                    assert await life.delete() == KILLED
                await check(life, storm)

    servers = [start_server() for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        for number, server in enumerate(servers):
            group.create_task(one(server.stub(), tmp_path / str(number)))
