"""A container by itself: what no client could bring about at a certain moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shimpy.core.container.container import ManagedContainer
from shimpy.core.container.context import Context
from shimpy.core.container.process import Process
from shimpy.core.model import Policy, StdioPaths
from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runc
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.spec import ExecSpec
from shimpy.core.stdio import StdioHub
from shimpy.errors import NotFoundError
from tests.support.leaks import alive
from tests.support.lives import KILLED

pytestmark = pytest.mark.anyio


async def test_a_delete_that_waited_for_another_never_takes_a_process_that_was_forgotten_meanwhile(
    bundle: Callable[..., str], new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reaper, hub = Reaper(), StdioHub()
    reaper.open()
    context = Context(new_id(), Bundle.read(bundle("sleep", "1000")), Runc("runc", None, reaper), reaper, hub)
    container = ManagedContainer(context, publish=lambda _event: None, policy=Policy())
    init = await container.create(StdioPaths(), no_pivot=False)
    await container.start()
    try:
        spec = container.bundle.process_for(ExecSpec(("sleep", "1000")))
        process = await container.execs.run(spec, StdioPaths(), policy=Policy(), name=str)
        killing, undone = asyncio.Event(), asyncio.Event()

        async def kill(_process: Process) -> None:
            killing.set()
            try:
                await asyncio.Event().wait()
            finally:
                await undone.wait()

        with monkeypatch.context() as patch:
            patch.setattr(Process, "kill", kill)
            first = asyncio.create_task(container.delete(process))
            await killing.wait()
            first.cancel()
            await asyncio.sleep(0)
            second = asyncio.create_task(container.delete(process))
            await asyncio.sleep(0)
            # As for an exec that has got its pid.
            container.forget(process)
            undone.set()
            with pytest.raises(NotFoundError, match="has been deleted"):
                await second
            await asyncio.wait([first])
        assert alive(process.pid)
    finally:
        assert await container.delete(init) == KILLED
        reaper.close()
        hub.close()
