"""A container by itself: what no client could bring about at a certain moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shimpy.core.container.container import Container
from shimpy.core.container.process import Process
from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runc
from shimpy.core.runtime.spec import ExecSpec
from shimpy.core.stdio import StdioHub
from shimpy.errors import NotFoundError
from tests.support.leaks import alive
from tests.support.lives import KILLED

pytestmark = pytest.mark.anyio

NOTHING = {"stdin": "", "stdout": "", "stderr": ""}


async def test_a_delete_that_waited_for_another_never_takes_the_next_process_of_that_pid(
    bundle: Callable[..., str], new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reaper, hub = Reaper(), StdioHub()
    reaper.open()
    container = Container(
        new_id(),
        bundle("sleep", "1000"),
        runtime=Runc("runc", None, reaper),
        reaper=reaper,
        hub=hub,
        publish=lambda _event: None,
    )
    init = await container.create(terminal=False, no_pivot=False, **NOTHING)
    await container.start()
    pid, other = [await container.exec(ExecSpec(("sleep", "1000")), **NOTHING) for _ in range(2)]
    killing, undone = asyncio.Event(), asyncio.Event()

    async def kill(_process: Process) -> None:
        killing.set()
        try:
            await asyncio.Event().wait()
        finally:
            await undone.wait()

    with monkeypatch.context() as patch:
        patch.setattr(Process, "kill", kill)
        first = asyncio.create_task(container.delete(pid))
        await killing.wait()
        first.cancel()
        await asyncio.sleep(0)
        second = asyncio.create_task(container.delete(pid))
        await asyncio.sleep(0)
        # The kernel gives the pid out again; here the record of the other takes the place.
        execs = container._processes._execs
        former, execs[pid] = execs[pid], execs.pop(other)
        undone.set()
        with pytest.raises(NotFoundError, match="another's"):
            await second
        await asyncio.wait([first])
    assert alive(other)
    execs[pid], execs[other] = former, execs[pid]

    assert await container.delete(other) == KILLED
    assert await container.delete(init) == KILLED
    reaper.close()
    hub.close()
