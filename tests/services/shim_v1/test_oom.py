"""The kernel's OOM killer in containers of the service: OOM once for each kill, before the EXIT it caused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.api import EventType
from tests.support import containers
from tests.support.fifos import Fifo
from tests.support.kinds import CREATE, EXEC_ADDED, EXIT, OOM, START
from tests.support.leaks import eventually
from tests.support.lives import KILLED, Life
from tests.support.rounds import rounds

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(rounds(60, 600))]

Prepare = Callable[..., Life]

LIMIT = 24 << 20

# It keeps the last line, which never ends.
HOG = ("tail", "/dev/zero")


def kernel_count(container_id: str) -> int:
    """Returns how often the kernel says that it has killed in a container."""
    for cgroup in containers.cgroups(container_id):
        for name in ("memory.oom_control", "memory.events"):
            file = Path(cgroup) / name
            for line in file.read_text().splitlines() if file.exists() else ():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    pytest.fail(f"{container_id} has no memory cgroup")


def ooms(life: Life) -> int:
    return life.recorder.of(life.pid).count(OOM)


def assert_told(life: Life, *kinds: EventType, count: int) -> None:
    """Of init this has been told and so many OOMs, the EXIT last.

    On a busy machine the first may come while the command is still ending that started the hog.
    """
    told = life.recorder.of(life.pid)
    assert [kind for kind in told if kind != OOM] == [*kinds]
    assert told.count(OOM) == count
    assert EXIT not in told[:-1]


async def test_a_hog_as_init(live: Prepare) -> None:
    for _ in range(rounds(5, 100)):
        life = live(*HOG, memory=LIMIT)
        await life.create()
        await life.start()
        assert await life.exit_of(life.pid) == KILLED
        assert_told(life, CREATE, START, EXIT, count=1)
        assert kernel_count(life.id) == 1
        assert await life.delete() == KILLED


async def test_hogs_as_execs(live: Prepare) -> None:
    """One after the other, in a container that goes on; each is told of before its EXIT."""
    life = live("sleep", "1000000", memory=LIMIT)
    await life.create()
    await life.start()
    for count in range(1, rounds(5, 100) + 1):
        pid = await life.exec(*HOG)
        assert await life.exit_of(pid) == KILLED
        seen = [event for event in life.recorder.seen if event.type in (EXEC_ADDED, OOM, EXIT)]
        *before, last = [(event.type, event.pid) for event in seen[-3:]]
        # As with init: the OOM may come before the command has ended that started the hog.
        assert {*before} == {(EXEC_ADDED, pid), (OOM, life.pid)}
        assert last == (EXIT, pid)
        assert ooms(life) == count == kernel_count(life.id)
        assert await life.delete(pid) == KILLED


async def test_a_hog_whose_shell_goes_on(live: Prepare) -> None:
    """There is an OOM, and nobody who exits."""
    count = rounds(5, 100)
    hogs = f"for i in $(seq {count}); do tail /dev/zero; done; exec sleep 1000000"
    life = live("sh", "-c", hogs, memory=LIMIT)
    await life.create()
    await life.start()
    await life.recorder.wait_for(OOM, life.pid, count=count, within=rounds(20, 300))
    await eventually(lambda: kernel_count(life.id) == count)
    assert_told(life, CREATE, START, count=count)
    await life.delete()
    await life.exit_of(life.pid)
    assert_told(life, CREATE, START, EXIT, count=count)


async def test_hogs_at_once(live: Prepare, fifo: Callable[[str], Fifo]) -> None:
    """However many the kernel chooses to kill, so many are told of, by the time of the last EXIT."""
    life = live("sleep", "1000000", memory=LIMIT)
    await life.create()
    await life.start()
    # All are there before the first begins: the runtime's own part in the cgroup is no hog.
    gates = [fifo(f"gate{number}") for number in range(4)]
    pids = [
        await life.exec("sh", "-c", "read line; tail /dev/zero; exit 1", stdin=str(gate)) for gate in gates
    ]
    await asyncio.gather(*(gate.write(b"go\n") for gate in gates))
    for pid in pids:
        assert await life.exit_of(pid) in (1, KILLED)
    assert ooms(life) == kernel_count(life.id) >= 1


async def test_an_exec_that_only_exits_tells_of_no_oom(live: Prepare) -> None:
    life = live("sleep", "1000000", memory=LIMIT)
    await life.create()
    await life.start()
    assert (await life.run("sh", "-c", "kill -9 $$")).status == KILLED
    assert (await life.run("sh", "-c", "exit 137")).status == KILLED
    assert ooms(life) == kernel_count(life.id) == 0
