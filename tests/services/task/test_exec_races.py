"""The Task API: calls about an exec that meet its start."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.api import runc_options, task, types, well_known
from shimpy.errors import FailedPreconditionError, NotFoundError
from tests.services.task.conftest import Task
from tests.support.leaks import eventually
from tests.support.lives import KILLED

pytestmark = pytest.mark.anyio

Tasks = Callable[[str], Task]
MakeBundle = Callable[..., str]

# A runtime that runs no exec before it is told to.
HELD = """#!/bin/sh
case " $* " in *" exec "*)
    touch {folder}/asked
    until [ -e {folder}/go ]; do sleep 0.01; done
esac
exec runc "$@"
"""


class Held:
    """A container whose runtime begins an exec and does not go on before `release`."""

    def __init__(self, one: Task, folder: Path) -> None:
        self.one = one
        self._folder = folder

    async def start(self, exec_id: str) -> asyncio.Task[int]:
        """Returns the start of an exec, once it is under way."""
        starting = asyncio.create_task(self.one.start(exec_id))
        await eventually((self._folder / "asked").exists)
        return starting

    def release(self) -> None:
        (self._folder / "go").touch()


@pytest.fixture
async def held(tasks: Tasks, bundle: MakeBundle, tmp_path: Path) -> Held:
    runtime = tmp_path / "runtime"
    runtime.write_text(HELD.format(folder=tmp_path))
    runtime.chmod(0o755)
    options = runc_options.Options(binary_name=str(runtime))
    one = tasks(bundle("sleep", "1000"))
    await one.create(options=well_known.Any("containerd.runc.v1.Options", bytes(options)))
    await one.start()
    await one.exec("e1", "sleep", "1000")
    return Held(one, tmp_path)


async def is_waiting(one: Task, call: asyncio.Task[object]) -> bool:
    """Returns whether a call that has been made has no answer, though a later one has."""
    await one.state()
    return not call.done()


@pytest.mark.parametrize("together", [False, True])
async def test_a_second_start_is_refused(held: Held, together: bool) -> None:
    """Whether the first is under way already, or has come just before."""
    if together:
        held.release()
        first, second = await asyncio.gather(
            held.one.start("e1"), held.one.start("e1"), return_exceptions=True
        )
    else:
        starting = await held.start("e1")
        (second,) = await asyncio.gather(held.one.start("e1"), return_exceptions=True)
        held.release()
        first = await starting

    assert isinstance(second, FailedPreconditionError)
    state = await held.one.state("e1")
    assert (state.status, state.pid) == (types.Status.RUNNING, first)
    await held.one.kill(signal.SIGKILL)
    assert [await held.one.wait("e1"), await held.one.wait()] == [KILLED, KILLED]


async def test_a_delete_waits_for_the_start_and_is_refused(held: Held) -> None:
    starting = await held.start("e1")
    deleting = asyncio.create_task(held.one.delete("e1"))
    assert await is_waiting(held.one, deleting)
    held.release()
    with pytest.raises(FailedPreconditionError, match="running"):
        await deleting

    assert (await held.one.state("e1")).pid == await starting
    await held.one.kill(signal.SIGKILL, "e1")
    await held.one.wait("e1")
    assert (await held.one.delete("e1")).exit_status == KILLED


async def test_a_kill_waits_for_the_start(held: Held) -> None:
    starting = await held.start("e1")
    killing = asyncio.create_task(held.one.kill(signal.SIGKILL, "e1"))
    assert await is_waiting(held.one, killing)
    held.release()
    await killing

    assert await starting > 0
    assert await held.one.wait("e1") == KILLED


async def test_the_end_of_the_container_ends_a_start(held: Held) -> None:
    starting = await held.start("e1")
    killing = asyncio.create_task(held.one.kill(signal.SIGKILL, "e1"))
    await held.one.kill(signal.SIGKILL)
    assert await held.one.wait() == KILLED

    with pytest.raises(FailedPreconditionError):
        await starting
    with pytest.raises(NotFoundError):
        await killing
    assert (await held.one.delete()).exit_status == KILLED


@pytest.mark.parametrize("start_first", [False, True])
async def test_a_delete_and_a_start_at_once_do_not_both_succeed(held: Held, start_first: bool) -> None:
    held.release()
    one = held.one
    order = (one.start, one.delete) if start_first else (one.delete, one.start)
    outcomes = await asyncio.gather(*(call("e1") for call in order), return_exceptions=True)
    started, deleted = outcomes if start_first else reversed(outcomes)

    assert isinstance(deleted, FailedPreconditionError) != isinstance(started, NotFoundError)
    pids = await one.call("Pids", task.PidsRequest(one.id), task.PidsResponse)
    assert len(pids.processes) == (2 if isinstance(started, int) else 1)


async def test_a_wait_ends_when_the_exec_is_deleted_unstarted(held: Held) -> None:
    one = held.one
    await one.exec("e2", "true")
    waiting = [asyncio.create_task(one.wait(name)) for name in ("e1", "e2")]
    assert [await is_waiting(one, each) for each in waiting] == [True, True]
    await one.delete("e1")
    assert await waiting[0] == 0

    # With the container goes the other.
    await one.kill(signal.SIGKILL)
    await one.wait()
    await one.delete()
    assert await waiting[1] == 0
