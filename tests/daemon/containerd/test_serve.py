"""When the daemon ends, and what it does first."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from shimpy.api import events, task, well_known
from shimpy.daemon.containerd import sockets
from shimpy.daemon.containerd.serve import Daemon
from shimpy.errors import UnavailableError, UnimplementedError
from shimpy.services.task.publisher import Publisher
from shimpy.transport.methods import Method, Services
from shimpy.transport.ttrpc import Client, connect
from tests.support.events_server import EventsServer
from tests.support.leaks import eventually
from tests.support.shimv2 import TASK
from tests.support.time_scale import scaled

pytestmark = pytest.mark.anyio


class Stub:
    """A service with as many containers as a test says."""

    def __init__(self, shut_down: Callable[[], None]) -> None:
        self.idle = True
        self._shut_down = shut_down

    def services(self) -> Services:
        return {TASK: {"Shutdown": Method(self._shutdown, task.ShutdownRequest)}}

    async def _shutdown(self, request: task.ShutdownRequest) -> well_known.Empty:
        del request
        asyncio.get_running_loop().call_soon(self._shut_down)
        return well_known.Empty()


class Running:
    """A daemon that runs in this process.

    Attributes:
        path: of its socket.
        stub: its service.
        ended: its run.
    """

    stub: Stub

    def __init__(self, path: str, publisher: Publisher, idle_limit: float) -> None:
        place = sockets.take(path, "first")
        assert place is not None
        self.path = path
        self.daemon = Daemon(place, self._make, publisher, "first", idle_limit=idle_limit)
        self.ended = asyncio.ensure_future(self.daemon.run())

    def _make(self, shut_down: Callable[[], None]) -> Stub:
        self.stub = Stub(shut_down)
        return self.stub

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = await connect(self.path)
        try:
            yield client
        finally:
            client.close()

    async def shut_down(self, container_id: str) -> None:
        async with self.client() as client:
            request = task.ShutdownRequest(container_id)
            await client.call(TASK, "Shutdown", request, well_known.Empty, timeout=30)

    async def join(self, container_id: str) -> None:
        async with self.client() as client:
            request = task.ConnectRequest(container_id)
            await client.call(
                sockets.JOIN_SERVICE, sockets.JOIN_METHOD, request, well_known.Empty, timeout=30
            )

    async def serves(self) -> bool:
        """Whether it has not been told to end: then it refuses every call, or is gone."""
        try:
            async with self.client() as client:
                await client.call("no", "such", well_known.Empty(), well_known.Empty, timeout=30)
        except UnimplementedError:
            return True
        except UnavailableError:
            return False
        raise AssertionError


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
async def run(directory: Path) -> AsyncIterator[Callable[..., Running]]:
    """Runs daemons, each of which has to end within the test or at its end."""
    made: list[Running] = []

    def make(*, idle_limit: float = 60, publisher: Publisher | None = None) -> Running:
        made.append(Running(str(directory / "s" / "name"), publisher or Publisher("", "ns"), idle_limit))
        return made[-1]

    yield make
    for each in made:
        each.daemon.stop()
        await within(20, each)


async def within(seconds: float, running: Running) -> None:
    """Waits for the end of a daemon."""
    await asyncio.wait_for(asyncio.shield(running.ended), scaled(seconds))


async def test_it_ends_with_its_last_container(run: Callable[..., Running]) -> None:
    running = run()
    await running.shut_down("first")

    await within(10, running)
    assert not os.path.exists(running.path)


async def test_it_stays_while_there_is_a_container(run: Callable[..., Running]) -> None:
    running = run()
    running.stub.idle = False
    await running.shut_down("first")

    assert await running.serves()


async def test_it_stays_for_a_container_that_is_expected(run: Callable[..., Running]) -> None:
    running = run()
    await running.join("second")
    await running.shut_down("first")

    assert await running.serves()
    await running.shut_down("second")
    await within(10, running)


async def test_it_stays_for_its_own_container_when_another_is_shut_down(run: Callable[..., Running]) -> None:
    running = run()
    await running.join("second")
    await running.shut_down("second")

    assert await running.serves()


async def test_who_comes_too_late_is_refused(run: Callable[..., Running], directory: Path) -> None:
    server = EventsServer()
    server.open.clear()
    async with server.listening(directory / "events"):
        publisher = Publisher(str(directory / "events"), "ns")
        running = run(publisher=publisher)
        publisher.publish("/tasks/exit", events.TaskExit("first"))
        async with running.client() as client:
            request = task.ShutdownRequest("first")
            await client.call(TASK, "Shutdown", request, well_known.Empty, timeout=30)
            with pytest.raises(UnavailableError):
                await client.call(
                    sockets.JOIN_SERVICE, sockets.JOIN_METHOD, task.ConnectRequest("second"), well_known.Empty
                )
        server.open.set()
        await within(10, running)


async def test_a_start_that_comes_too_late_finds_another_socket(run: Callable[..., Running]) -> None:
    running = run()
    await running.shut_down("first")
    await within(10, running)

    place = await asyncio.to_thread(sockets.take, running.path, "second")
    assert place is not None
    place.listener.close()


async def test_events_are_delivered_before_it_ends(run: Callable[..., Running], directory: Path) -> None:
    server = EventsServer()
    server.open.clear()
    async with server.listening(directory / "events"):
        publisher = Publisher(str(directory / "events"), "ns")
        running = run(publisher=publisher)
        publisher.publish("/tasks/exit", events.TaskExit("first"))
        publisher.publish("/tasks/delete", events.TaskDelete("first"))
        await running.shut_down("first")
        await eventually(lambda: not os.path.exists(running.path))
        assert not running.ended.done()
        server.open.set()
        await within(10, running)

    assert server.topics == ["/tasks/exit", "/tasks/delete"]


async def test_a_containerd_that_is_gone_holds_up_no_end(
    run: Callable[..., Running], directory: Path
) -> None:
    publisher = Publisher(str(directory / "nobody"), "ns")
    running = run(publisher=publisher)
    publisher.publish("/tasks/exit", events.TaskExit("first"))
    await running.shut_down("first")

    await within(15, running)


async def test_nobody_needs_it(run: Callable[..., Running]) -> None:
    running = run(idle_limit=0.05)

    await within(10, running)
    assert not os.path.exists(running.path)


async def test_it_does_not_leave_who_is_connected(run: Callable[..., Running]) -> None:
    running = run(idle_limit=0.05)
    async with running.client() as client:
        with pytest.raises(UnimplementedError):
            await client.call("no", "such", well_known.Empty(), well_known.Empty, timeout=30)
        await asyncio.sleep(0.3)
        assert not running.ended.done()

    await within(10, running)


async def test_it_does_not_leave_a_container(run: Callable[..., Running]) -> None:
    running = run(idle_limit=0.05)
    running.stub.idle = False
    await asyncio.sleep(0.3)
    assert not running.ended.done()
    running.stub.idle = True

    await within(10, running)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it(run: Callable[..., Running], number: signal.Signals) -> None:
    running = run()
    running.stub.idle = False
    assert await running.serves()
    os.kill(os.getpid(), number)

    await within(10, running)
    assert not os.path.exists(running.path)


async def test_a_socket_that_is_another_shims_by_now_stays(run: Callable[..., Running]) -> None:
    running = run()
    assert await running.serves()
    os.unlink(running.path)
    other = sockets.take(running.path, "second")
    assert other is not None
    with other.listener:
        os.kill(os.getpid(), signal.SIGTERM)
        await within(10, running)

        assert os.path.exists(running.path)


async def test_who_holds_the_directory_may_ask_it(run: Callable[..., Running]) -> None:
    running = run()
    assert await running.serves()
    directory = os.open(os.path.dirname(running.path), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        async with running.client() as client:
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(UnavailableError):
                await client.call(
                    sockets.JOIN_SERVICE, sockets.JOIN_METHOD, task.ConnectRequest("second"), well_known.Empty
                )
    finally:
        os.close(directory)

    await within(10, running)
