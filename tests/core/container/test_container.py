"""A container by itself: what no client could bring about at a certain moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shimpy.core.container.container import ManagedContainer
from shimpy.core.container.context import Context, Created
from shimpy.core.container.process import Process
from shimpy.core.container.process_table import ProcessTable
from shimpy.core.model import Policy, StdioPaths
from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runc, Runtime
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.spec import ExecSpec
from shimpy.core.stdio import StdioHub
from shimpy.errors import NotFoundError
from shimpy.testing import Fails, FakeRuntime
from tests.support import containers
from tests.support.leaks import alive, descriptors, opened_since
from tests.support.lives import KILLED

pytestmark = pytest.mark.anyio


@pytest.fixture
async def container(bundle: Callable[..., str], new_id: Callable[[], str]) -> AsyncIterator[ManagedContainer]:
    """One that runs."""
    reaper, hub = Reaper(), StdioHub()
    reaper.open()
    context = Context(new_id(), Bundle.read(bundle("sleep", "1000")), Runc("runc", None, reaper), reaper, hub)
    container = ManagedContainer(context, publish=lambda _event: None, policy=Policy())
    await container.create(StdioPaths())
    await container.start()
    yield container
    if not container.deleted:
        await delete(container)
    reaper.close()
    hub.close()


async def test_a_delete_that_waited_for_another_never_takes_a_process_that_was_forgotten_meanwhile(
    container: ManagedContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    assert await delete(container) == KILLED


async def test_a_delete_waits_for_what_the_death_of_init_has_begun(
    container: ManagedContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It freezes the container for moments, and a runtime deletes nothing that is paused."""
    order: list[str] = []
    kill_all = ProcessTable.kill

    async def kill(table: ProcessTable) -> None:
        """Returns at first before init's exit can be noticed, and then takes its time."""
        order.append("kill")
        if len(order) == 1:
            assert table.init is not None
            assert table.init.child is not None
            table.init.child.kill()
            return
        await asyncio.sleep(0.2)
        await kill_all(table)
        order.append("killed")

    async def delete_state(runtime: Runtime, container_id: str) -> None:
        order.append("delete")
        await runtime.delete(container_id)

    monkeypatch.setattr(ProcessTable, "kill", kill)
    monkeypatch.setattr("shimpy.core.container.delete.delete_state", delete_state)

    assert await delete(container) == KILLED
    assert order == ["kill", "kill", "killed", "delete"]


async def test_an_exec_that_is_called_off_while_it_is_rolled_back_leaves_nothing(
    container: ManagedContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command has failed because init was dying; then init's exit calls it off."""
    before = descriptors()
    killing, go_on = asyncio.Event(), asyncio.Event()

    async def kill(_process: Process) -> None:
        killing.set()
        await go_on.wait()

    monkeypatch.setattr(Process, "kill", kill)
    spec = container.bundle.process_for(ExecSpec(("not-there",)))
    call = asyncio.create_task(
        container.execs.run(spec, StdioPaths(), policy=Policy(exec_cgroups=True), name=str)
    )
    await killing.wait()
    call.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert opened_since(before) == []


async def test_a_create_that_is_called_off_while_it_is_rolled_back_leaves_nothing(
    bundle: Callable[..., str], new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reaper, hub = Reaper(), StdioHub()
    reaper.open()
    with FakeRuntime(tmp_path) as fake:
        fake.fault("create", Fails(after=True), times=1)
        runtime = Runc(fake.path, None, reaper)
        context = Context(new_id(), Bundle.read(bundle("sleep", "1000")), runtime, reaper, hub)
        container = ManagedContainer(context, publish=lambda _event: None, policy=Policy())
        killing, go_on = asyncio.Event(), asyncio.Event()
        kill_it = Process.kill

        async def kill(process: Process) -> None:
            killing.set()
            await go_on.wait()
            await kill_it(process)

        monkeypatch.setattr(Process, "kill", kill)
        call = asyncio.create_task(container.create(StdioPaths()))
        await killing.wait()
        call.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go_on.set()

        with pytest.raises(asyncio.CancelledError):
            await call
        assert containers.left(context.id) == []
        assert containers.cgroups(context.id) == []
    reaper.close()
    hub.close()


async def delete(container: ManagedContainer) -> int:
    assert container.init is not None
    return await container.delete(container.init)


async def test_an_exec_of_a_container_that_is_deleted_meanwhile_leaves_no_file_descriptor(
    container: ManagedContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    spec = container.bundle.process_for(ExecSpec(("true",)))

    def deleted() -> Created:
        raise NotFoundError("it is deleted")

    with monkeypatch.context() as patch:
        patch.setattr(container.execs, "_existing", deleted)
        with pytest.raises(NotFoundError):
            await container.execs.run(spec, StdioPaths(), policy=Policy(), name=str)
    assert opened_since(before) == []
