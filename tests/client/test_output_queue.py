"""Output on its way to who follows it."""

from __future__ import annotations

import asyncio

import pytest

from shimpy.client.model import StreamName
from shimpy.client.output_queue import OutputQueue

pytestmark = pytest.mark.anyio


class Pipes:
    """Where output comes from, with what is paused."""

    def __init__(self) -> None:
        self.paused: set[StreamName] = set()

    def pause(self, stream: StreamName) -> None:
        self.paused.add(stream)

    def resume(self, stream: StreamName) -> None:
        self.paused.discard(stream)


@pytest.fixture
def pipes() -> Pipes:
    """Two pipes."""
    return Pipes()


@pytest.fixture
def queue(pipes: Pipes) -> OutputQueue:
    """A queue that is fed by them."""
    queue = OutputQueue()
    queue.source = pipes
    return queue


async def test_pieces_come_as_they_were_written(queue: OutputQueue) -> None:
    queue.put("stdout", b"one")
    queue.put("stderr", b"two")
    queue.put("stdout", b"three")
    queue.end()
    got = [await queue.get() for _ in range(4)]
    assert got == [("stdout", b"one"), ("stderr", b"two"), ("stdout", b"three"), None]


async def test_too_much_of_one_output_stops_that_one_alone(queue: OutputQueue, pipes: Pipes) -> None:
    queue.put("stdout", bytes(1 << 17))
    assert pipes.paused == set()
    queue.put("stdout", bytes(1 << 17))
    queue.put("stderr", b"little")
    assert pipes.paused == {"stdout"}
    await queue.get_from("stdout", 1)
    assert pipes.paused == set()


async def test_what_is_left_of_a_piece_comes_next(queue: OutputQueue) -> None:
    queue.put("stdout", b"abcdef")
    queue.put("stderr", b"other")
    assert await queue.get_from("stdout", 4) == b"abcd"
    assert await queue.get() == ("stdout", b"ef")
    assert await queue.get_from("stderr", 100) == b"other"


async def test_each_output_has_the_limit_for_itself() -> None:
    queue = OutputQueue(limit=3)
    for stream in ("stdout", "stderr"):
        queue.put(stream, b"ab")
        assert queue.truncated is (stream == "stderr")
        queue.put(stream, b"cd")
    queue.put("stdout", b"more")
    queue.end()
    assert await queue.get_from("stdout", 100) + await queue.get_from("stdout", 100) == b"abc"
    assert await queue.get_from("stderr", 100) + await queue.get_from("stderr", 100) == b"abc"
    assert await queue.get() is None


async def test_who_waits_is_woken_by_their_own_output(queue: OutputQueue) -> None:
    waiting = asyncio.ensure_future(queue.get_from("stderr", 100))
    await asyncio.sleep(0)
    queue.put("stdout", b"not theirs")
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.put("stderr", b"theirs")
    assert await waiting == b"theirs"


async def test_what_is_thrown_away_holds_nothing_up(queue: OutputQueue, pipes: Pipes) -> None:
    queue.put("stderr", bytes(1 << 18))
    queue.discard("stderr")
    queue.put("stderr", bytes(1 << 18))
    assert pipes.paused == set()
    queue.put("stdout", b"kept")
    assert await queue.get() == ("stdout", b"kept")
