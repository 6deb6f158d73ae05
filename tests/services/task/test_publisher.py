"""Events on their way to containerd: in order, whatever happens to it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import betterproto
import pytest

from shimpy.api import events
from shimpy.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError
from shimpy.services.task import publisher as module
from shimpy.services.task.publisher import MAX_QUEUED, Publisher
from tests.support.events_server import EventsServer
from tests.support.leaks import descriptors, eventually, opened_since

pytestmark = pytest.mark.anyio


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory, "events")


@pytest.fixture
async def server() -> EventsServer:
    return EventsServer()


@pytest.fixture
async def publisher(path: Path) -> AsyncIterator[Publisher]:
    publisher = Publisher(str(path), "ns")
    yield publisher
    await publisher.aclose()


def exits(publisher: Publisher, *names: str) -> None:
    """Publishes an exit of each."""
    for name in names:
        publisher.publish("/tasks/exit", events.TaskExit(name, name, 7, 3))


def names(server: EventsServer) -> list[str]:
    """Returns whose exits have come."""
    return [events.TaskExit().parse(each.event.value).container_id for each in server.taken]


async def test_the_envelope(path: Path, server: EventsServer, publisher: Publisher) -> None:
    before = time.time()
    async with server.listening(path):
        exits(publisher, "web")
        assert await publisher.flush(30)

    (envelope,) = server.taken
    assert (envelope.namespace, envelope.topic) == ("ns", "/tasks/exit")
    assert envelope.event.type_url == "containerd.events.TaskExit"
    assert events.TaskExit().parse(envelope.event.value) == events.TaskExit("web", "web", 7, 3)
    assert before - 1 <= envelope.timestamp.seconds <= time.time()
    assert 0 <= envelope.timestamp.nanos < 10**9


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (events.TaskCreate(), "TaskCreate"),
        (events.TaskStart(), "TaskStart"),
        (events.TaskExecAdded(), "TaskExecAdded"),
        (events.TaskExecStarted(), "TaskExecStarted"),
        (events.TaskDelete(), "TaskDelete"),
        (events.TaskOom(), "TaskOOM"),
        (events.TaskPaused(), "TaskPaused"),
        (events.TaskResumed(), "TaskResumed"),
        (events.TaskCheckpointed(), "TaskCheckpointed"),
    ],
)
async def test_the_type_is_containerds(
    path: Path, server: EventsServer, publisher: Publisher, message: betterproto.Message, name: str
) -> None:
    async with server.listening(path):
        publisher.publish("/tasks/x", message)
        assert await publisher.flush(30)

    assert server.taken[0].event.type_url == f"containerd.events.{name}"


async def test_the_address_may_be_a_url(path: Path, server: EventsServer) -> None:
    publisher = Publisher(f"unix://{path}", "ns")
    async with server.listening(path):
        exits(publisher, "web")
        assert await publisher.flush(30)
    await publisher.aclose()

    assert names(server) == ["web"]


async def test_many_come_in_order(path: Path, server: EventsServer, publisher: Publisher) -> None:
    told = [str(number) for number in range(100)]
    async with server.listening(path):
        exits(publisher, *told)
        assert await publisher.flush(30)

    assert names(server) == told


async def test_one_call_at_a_time(path: Path, server: EventsServer, publisher: Publisher) -> None:
    server.open.clear()
    async with server.listening(path):
        exits(publisher, "a", "b", "c")
        await eventually(lambda: server.asked)
        await asyncio.sleep(0.05)
        assert server.asked == 1
        server.open.set()
        assert await publisher.flush(30)


async def test_what_was_published_while_containerd_was_away_comes(
    path: Path, server: EventsServer, publisher: Publisher
) -> None:
    exits(publisher, "a", "b")
    assert not await publisher.flush(0.2)
    async with server.listening(path):
        exits(publisher, "c")
        assert await publisher.flush(30)

    assert names(server) == ["a", "b", "c"]


async def test_a_containerd_that_is_started_again_gets_the_rest(
    path: Path, server: EventsServer, publisher: Publisher
) -> None:
    async with server.listening(path):
        exits(publisher, "a")
        assert await publisher.flush(30)
    exits(publisher, "b")
    async with server.listening(path):
        exits(publisher, "c")
        assert await publisher.flush(30)

    assert names(server) == ["a", "b", "c"]


@pytest.mark.parametrize("error", [UnavailableError("later"), DeadlineExceededError("slow")])
async def test_an_event_is_offered_until_it_is_taken(
    path: Path, server: EventsServer, publisher: Publisher, error: UnavailableError | DeadlineExceededError
) -> None:
    server.refusals += [error, error]
    async with server.listening(path):
        exits(publisher, "a", "b")
        assert await publisher.flush(30)

    assert names(server) == ["a", "b"]


async def test_a_call_that_is_not_answered_is_made_again(
    path: Path, server: EventsServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CALL_TIMEOUT", 0.05)
    server.open.clear()
    async with server.listening(path):
        exits(publisher, "a", "b")
        await eventually(lambda: server.asked >= 2)
        server.open.set()
        assert await publisher.flush(30)

    assert list(dict.fromkeys(names(server))) == ["a", "b"]


async def test_an_event_that_is_refused_holds_up_nothing(
    path: Path, server: EventsServer, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    server.refusals.append(InvalidArgumentError("no such topic"))
    async with server.listening(path):
        exits(publisher, "a", "b")
        assert await publisher.flush(30)

    assert names(server) == ["b"]
    assert "no such topic" in caplog.text


async def test_what_is_kept_is_bounded(
    path: Path, server: EventsServer, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    told = [str(number) for number in range(MAX_QUEUED + 10)]
    exits(publisher, *told)
    async with server.listening(path):
        assert await publisher.flush(60)

    assert names(server) == told[10:]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


async def test_flush_waits_no_longer_than_it_may(publisher: Publisher) -> None:
    exits(publisher, "a")
    begun = time.monotonic()

    assert not await publisher.flush(0.05)
    assert time.monotonic() - begun < 5


async def test_flush_of_nothing(publisher: Publisher) -> None:
    assert await publisher.flush(30)


async def test_without_an_address_nothing_is_kept() -> None:
    publisher = Publisher("", "ns")
    exits(publisher, "a")

    assert await publisher.flush(0)


async def test_the_end_leaves_nothing(path: Path, server: EventsServer) -> None:
    before = descriptors()
    tasks = asyncio.all_tasks()
    publisher = Publisher(str(path), "ns")
    async with server.listening(path):
        exits(publisher, "a")
        assert await publisher.flush(30)
    exits(publisher, "b")
    await publisher.aclose()
    await publisher.aclose()
    exits(publisher, "c")

    assert asyncio.all_tasks() == tasks
    await eventually(lambda: opened_since(before) == [])


async def test_what_was_not_delivered_is_handed_over(path: Path, server: EventsServer) -> None:
    """In order, each once, and before what comes then."""
    one, two = Publisher(str(path), "ns"), Publisher(str(path), "ns")
    exits(one, "a", "b")
    one.pause()
    exits(one, "c")
    two.take_up(one.hand_over())
    exits(two, "d")
    async with server.listening(path):
        assert await two.flush(20)
    await two.aclose()

    assert names(server) == ["a", "b", "c", "d"]


async def test_a_call_that_is_under_way_ends_before_the_rest_is_handed_over(
    path: Path, server: EventsServer
) -> None:
    one = Publisher(str(path), "ns")
    server.open.clear()
    async with server.listening(path):
        exits(one, "a", "b")
        await eventually(lambda: server.asked == 1)
        one.pause()
        assert one.under_way
        server.open.set()
        await eventually(lambda: not one.under_way)

        assert names(server) == ["a"]
        assert len(one.hand_over()) == 1
        one.resume()
        assert await one.flush(20)
        assert names(server) == ["a", "b"]
        await one.aclose()
