"""Two shims in one process, and programs that call themselves what the runtime calls its helpers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from grpclib.const import Status

import shimpy
from shimpy.testing import Fails, FakeRuntime
from tests.support.kinds import CREATE, EXIT, RUNNING, START
from tests.support.leaks import children, eventually
from tests.support.lives import KILLED, Life, refused
from tests.support.rounds import FULL, rounds
from tests.support.sandboxes import sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3600 if FULL else 60)]

# What runc calls the process that becomes a container's (nsexec.c).
HELPER = "runc:[2:INIT]"

ROUNDS = rounds(8, 1000)


async def test_deletes_of_one_keep_their_statuses_while_commands_of_the_other_fail(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """A container that was never started dies as what the runtime's helper is called."""
    over = False

    async def fail(container: shimpy.Container) -> int:
        failures = 0
        while not over or not failures:
            with pytest.raises(shimpy.NotFoundError):
                await container.run(["not-there"])
            failures += 1
        return failures

    path, name = bundle("true"), new_id()
    async with sandbox(bundle, new_id()) as container, shimpy.in_process() as client:
        failing = asyncio.ensure_future(fail(container))
        statuses = [await client.delete(await client.create(name, path)) for _ in range(ROUNDS)]
        over = True
        await failing
        assert statuses == [KILLED] * ROUNDS
        await eventually(lambda: {*children()} == {container.pid})


async def test_execs_of_one_keep_their_statuses_while_commands_of_the_other_fail(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """Whatever a program calls itself."""
    over = False

    async def fail(container: shimpy.Container) -> None:
        while not over:
            with pytest.raises(shimpy.NotFoundError):
                await container.run(["not-there"])

    async with sandbox(bundle, new_id()) as container, sandbox(bundle, new_id()) as other:
        failing = asyncio.ensure_future(fail(other))
        renamed = f"echo -n '{HELPER}' >/proc/self/comm; exit "
        statuses = [
            (await container.run(["sh", "-c", f"{renamed}{number % 256}"])).exit_status
            for number in range(ROUNDS)
        ]
        over = True
        await failing
        assert statuses == [number % 256 for number in range(ROUNDS)]


async def test_a_program_of_that_name_has_begun_although_its_start_failed(
    live: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it had begun is no question of its name."""
    # It may be dead long before its start has failed.
    monkeypatch.setattr("shimpy.core.container.start.GRACE", 30)
    with FakeRuntime() as fake:
        fake.fault("start", Fails(after=True))
        for _ in range(rounds(3, 1000)):
            life = live("sh", "-c", f"echo -n '{HELPER}' >/proc/self/comm; exit 3")
            # Not by pid: the kernel gives them out again in a thousand rounds.
            seen = life.recorder.seen
            before = len(seen)
            await life.create(runtime=fake.path)
            await refused(life.start(), Status.INTERNAL)
            await eventually(lambda: EXIT in [event.type for event in seen[before:]])  # noqa: B023
            assert [event.type for event in seen[before:]] == [CREATE, START, EXIT]
            assert await life.delete() == 3


async def test_a_program_of_that_name_runs(live: Callable[..., Life]) -> None:
    for _ in range(rounds(3, 1000)):
        life = live("sh", "-c", f"echo -n '{HELPER}' >/proc/self/comm; exec sleep 1000")
        await life.create()
        await life.start()
        assert await life.state() == RUNNING
        assert await life.delete() == KILLED
