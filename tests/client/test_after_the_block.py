"""What becomes of a client's things when the block that they belong to has ended."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import shimpy
from tests.support import containers
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listens on a port of this host; a test in which somebody connects to it fails."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener
        with pytest.raises(BlockingIOError):
            listener.accept()


async def _nothing_works(client: shimpy.ShimClient) -> None:
    with pytest.raises(shimpy.UnavailableError, match="block has ended"):
        await client.state()
    with pytest.raises(shimpy.UnavailableError, match="block has ended"):
        await anext(client.events())
    with pytest.raises(shimpy.UnavailableError, match="block has ended"):
        await client.run("never", "/nowhere")


async def test_client_of_a_shim_in_this_process_calls_nobody_else(listener: socket.socket) -> None:
    async with shimpy.in_process() as client:
        # It has no address: grpclib's default is what it would dial.
        client._channel._host, client._channel._port = listener.getsockname()
    await _nothing_works(client)


async def test_client_of_a_connection_does_not_connect_again(server: Server, listener: socket.socket) -> None:
    async with shimpy.connect(server.socket) as client:
        client._channel._path = None
        client._channel._host, client._channel._port = listener.getsockname()
    await _nothing_works(client)


async def test_client_of_a_launched_shim_says_that_its_block_has_ended() -> None:
    async with shimpy.launch() as client:
        pass
    await _nothing_works(client)


async def test_iteration_under_way_ends_when_the_subscription_does() -> None:
    async with shimpy.in_process() as client:
        async with client.events() as events:
            waiting = asyncio.ensure_future(anext(events, None))
            await client.state()  # by now it waits for an event
        assert await waiting is None


async def test_iteration_that_is_just_subscribing_ends_when_it_is_closed() -> None:
    async with shimpy.in_process() as client:
        events = client.events()
        waiting = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(0)  # one step of the loop: it has begun, and waits
        await events.aclose()
        assert await waiting is None


async def test_subscription_that_has_ended_stays_ended() -> None:
    async with shimpy.in_process() as client:
        async with client.events() as events:
            pass
        assert await anext(events, None) is None
        with pytest.raises(RuntimeError, match=r"events\(\)"):
            async with events:
                pass


async def test_iteration_that_is_cancelled_as_the_subscription_ends_is_cancelled() -> None:
    async with shimpy.in_process() as client:
        async with client.events() as events:
            waiting = asyncio.ensure_future(anext(events))
            await client.state()
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_subscription_is_of_use_after_an_iteration_that_was_cancelled(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with shimpy.in_process() as client, client.events() as events:
        waiting = asyncio.ensure_future(anext(events))
        await client.state()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        pid = await client.create(new_id(), bundle("true"))
        assert (await anext(events)).pid == pid


async def test_who_waits_for_a_container_hears_how_the_end_of_its_block_ended_it(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with shimpy.in_process() as client:
        async with client.container(new_id(), bundle("sleep", "1000000")) as container:
            waiting = asyncio.ensure_future(container.wait())
            await container.state()
        assert await waiting == 137
        assert await container.wait() == 137


async def test_who_waits_for_a_container_whose_end_nobody_heard_is_told_so(
    bundle: Callable[..., str], new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shimpy.in_process() as client:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what this is about
            async with client.container(new_id(), bundle("sleep", "1000000")) as container:
                waiting = asyncio.ensure_future(container.wait())
                await container.state()
                monkeypatch.setattr(client, "delete", _fails)
                raise ZeroDivisionError
        monkeypatch.undo()
        with pytest.raises(shimpy.UnavailableError, match="block has ended"):
            await waiting


async def _fails(pid: int) -> int:
    raise shimpy.InternalError(f"{pid} cannot be deleted")


async def test_clean_up_that_fails_hides_nothing_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(client: shimpy.ShimClient) -> None:
        raise shimpy.InternalError("the runtime is broken")

    monkeypatch.setattr("shimpy.client.embed.delete_container", fail)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what this is about
        async with shimpy.in_process() as client:
            with pytest.raises(shimpy.NotFoundError):
                await client.run("never", "/nowhere")  # so that it follows the events
            raise ZeroDivisionError
    assert caplog.messages == ["the container could not be deleted: the runtime is broken"]
    following = client._exits._task
    assert following is not None
    assert following.done()


@pytest.mark.parametrize("shim", [shimpy.in_process, shimpy.launch])
async def test_a_container_that_stays_because_the_runtime_is_gone_is_not_passed_over(
    shim: Callable[..., AbstractAsyncContextManager[shimpy.ShimClient]],
    bundle: Callable[..., str],
    new_id: Callable[[], str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """NOT_FOUND would say that it is deleted already."""
    runtime, container = tmp_path / "runc", new_id()
    runtime.symlink_to(shutil.which("runc") or "")
    async with shim(runtime=str(runtime)) as client:
        pid = await client.create(container, bundle("sleep", "1000"))
        runtime.unlink()
        with pytest.raises(shimpy.FailedPreconditionError, match=f"{runtime} cannot be started"):
            await client.delete(pid)

    assert f"the container could not be deleted: {runtime} cannot be started" in caplog.text
    containers.remove(container)
