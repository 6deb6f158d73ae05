"""A shim that is killed at any moment, also in its take-up, loses nothing: whatever it has answered holds."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from grpclib.client import Channel
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from shimpy import api
from tests.support import containers, residue
from tests.support.mortal import MortalShim
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio

# Seconds that calls take, and a start with its take-up: a shim is killed at any moment of them.
CALLS = 0.15
TAKE_UP = 0.05

# Moments of writing in a call, in a take-up and in between, after which a shim may be killed.
MOMENTS = 16


class Client:
    """A client that repeats what was not answered, and notes what is wrong.

    Args:
        mortal: the shim that is killed.

    Attributes:
        wrong: what should not be.
        expected: the exit statuses of all execs that were answered, by pid, which the kernel gives again.
        told: the events, as type and exit status, by pid.
    """

    def __init__(self, mortal: MortalShim) -> None:
        self.wrong: list[str] = []
        self.expected: dict[int, list[int]] = {}
        self.told: dict[int, list[tuple[int, int]]] = {}
        self._mortal = mortal
        self._tokens = map(str, itertools.count())
        self._last = 0
        self._channel: Channel | None = None
        self._channels: list[Channel] = []
        self._events: asyncio.Task[None] | None = None

    def connect(self) -> None:
        """Leaves the shim that has died."""
        # The one before is closed at the end: grpclib forgets a connection that is being made meanwhile.
        self._channel = Channel(path=self._mortal.socket)
        self._channels.append(self._channel)
        if self._events is None:
            self._events = asyncio.create_task(self._follow())

    async def call(self, name: str, request: Any) -> Any:
        """Makes a call, as often as it takes to get an answer."""
        metadata = {"shimpy-token": next(self._tokens)}
        while True:
            assert self._channel is not None
            channel = self._channel
            try:
                return await getattr(api.ShimStub(channel), name)(request, metadata=metadata, timeout=20)
            except OSError:
                await asyncio.sleep(0.01)  # nobody listens yet
            except StreamTerminatedError:
                await self._next(channel)
            except GRPCError as error:
                if error.status is not Status.UNAVAILABLE:
                    self.wrong.append(f"{name}: {error}")
                    raise
                await self._next(channel)

    async def exec(self, rng: random.Random) -> tuple[int, int]:
        """Starts a process that ends with a status of its own, soon or at once.

        Returns:
            Its pid, and how many of that pid there have been with it.
        """
        status = rng.randrange(1, 120)
        sleep = rng.choice(["", "sleep 0.02;", "setsid sleep 1000 & sleep 0.01;"])
        request = api.ExecRequest(args=["sh", "-c", f"{sleep} exit {status}"])
        pid = int((await self.call("exec", request)).pid)
        lives = self.expected.setdefault(pid, [])
        lives.append(status)
        return pid, len(lives)

    async def delete(self, pid: int, life: int) -> None:
        """Deletes an exec, which tells its status, unless that kills it first."""
        for _ in range(1000):
            if [each for each, _ in self.told.get(pid, [])].count(api.EventType.EXIT) >= life:
                break
            await asyncio.sleep(0.01)
        status = (await self.call("delete", api.DeleteRequest(pid=pid))).exit_status
        right = self.expected[pid][life - 1]
        if status != right:
            self.wrong.append(f"delete {pid}: {status} instead of {right}")

    async def aclose(self) -> None:
        if self._events is not None:
            self._events.cancel()
            await asyncio.wait([self._events])
        for channel in self._channels:
            channel.close()

    def judge(self) -> list[str]:
        """Returns what is wrong with all of it."""
        for pid, statuses in self.expected.items():
            right = [
                event
                for status in statuses
                for event in ((api.EventType.EXEC_ADDED, 0), (api.EventType.EXIT, status))
            ]
            if self.told.get(pid, []) != right:
                self.wrong.append(f"exec {pid}: {self.told.get(pid)} instead of {right}")
        return self.wrong

    async def _next(self, channel: Channel) -> None:
        """Waits for a connection to the next shim."""
        while self._channel is channel:
            await asyncio.sleep(0.002)

    async def _follow(self) -> None:
        while True:
            assert self._channel is not None
            channel = self._channel
            try:
                await self._stream(channel)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            except (StreamTerminatedError, GRPCError):
                pass
            await self._next(channel)

    async def _stream(self, channel: Channel) -> None:
        request = channel.request(
            "/containerd.shim.v1.Shim/Events",
            Cardinality.UNARY_STREAM,
            api.EventsRequest,
            api.Event,
            metadata={"shimpy-after": str(self._last)},
        )
        async with request as stream:
            await stream.send_message(api.EventsRequest(), end=True)
            await stream.recv_initial_metadata()
            assert stream.initial_metadata is not None
            first = int(str(stream.initial_metadata["shimpy-sequence"]))
            if first != self._last + 1:
                self.wrong.append(f"events begin at {first} after {self._last}")
            async for event in stream:
                self._last += 1
                self.told.setdefault(event.pid, []).append((event.type, event.exit_status))


@contextlib.asynccontextmanager
async def mortal_shim(*, stores: bool) -> AsyncIterator[MortalShim]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        mortal = MortalShim(Path(directory), stores=stores)
        try:
            yield mortal
        finally:
            await mortal.aclose()
            assert "Traceback" not in mortal.log, mortal.log


async def live_and_die(client: Client, mortal: MortalShim, rng: random.Random, count: int) -> None:
    """Makes calls while the shim is killed so many times."""
    execs: list[tuple[int, int]] = []
    for _ in range(count):
        # A paused container takes no exec.
        pauses = not execs and rng.random() < 0.3
        calls = [asyncio.create_task(client.exec(rng)) for _ in range(0 if pauses else rng.randrange(1, 3))]
        others: list[asyncio.Task[None]] = [asyncio.create_task(client.delete(*each)) for each in execs]
        if pauses:
            others.append(asyncio.create_task(pause_and_resume(client)))
        at_random = rng.random() < 0.5
        if at_random:
            await asyncio.sleep(rng.random() * CALLS)
            mortal.kill()
        else:
            await asyncio.wait([*calls, *others], timeout=0.5)
            mortal.kill()
        await mortal.ended()
        if rng.random() < 0.5:
            await asyncio.sleep(0.05)  # what has just been started ends while there is no shim
        # Some die in their take-up as well.
        while rng.random() < 0.4:
            await mortal.start(rng.randrange(1, 6), rng.choice(["before", "after", "half"]))
            await asyncio.sleep(rng.random() * TAKE_UP)
            mortal.kill()
            await mortal.ended()
        await mortal.start(rng.randrange(4, MOMENTS), rng.choice(["before", "after", "half"]))
        client.connect()
        done = asyncio.ensure_future(asyncio.wait([*calls, *others]))
        while not done.done():
            died: asyncio.Future[None] = asyncio.ensure_future(mortal.ended())
            await asyncio.wait([done, died], return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]  # of two types
            if died.done():
                await mortal.start()
                client.connect()
            else:
                mortal.kill()
                await died
                await mortal.start()
                client.connect()
        for each in others:
            each.result()
        execs = [each.result() for each in calls if rng.random() < 0.8]
    for pid, life in execs:
        await client.delete(pid, life)


async def pause_and_resume(client: Client) -> None:
    await client.call("pause", api.PauseRequest())
    await client.call("resume", api.ResumeRequest())


async def run(
    bundle: str, container_id: str, count: int, seed: int, *, stores: bool
) -> tuple[list[str], list[str]]:
    """Returns what was wrong, and what is stored at the end."""
    rng = random.Random(seed)
    async with mortal_shim(stores=stores) as mortal:
        client = Client(mortal)
        await mortal.start()
        while not Path(mortal.socket).exists():
            await asyncio.sleep(0.01)
        client.connect()
        try:
            init = (await client.call("create", api.CreateRequest(id=container_id, bundle=bundle))).pid
            await client.call("start", api.StartRequest())
            await live_and_die(client, mortal, rng, count)
            status = (await client.call("delete", api.DeleteRequest(pid=init))).exit_status
            if status != 137:
                client.wrong.append(f"delete of init: {status}")
        finally:
            await client.aclose()
            mortal.kill()
            await mortal.ended()
        return client.judge(), mortal.stored


@pytest.mark.timeout(rounds(180, 7200))
async def test_nothing_is_lost_whenever_it_is_killed(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    container_id, seed = new_id(), random.randrange(1 << 30)
    wrong, stored = await run(bundle("sleep", "1000000"), container_id, rounds(60, 1000), seed, stores=True)

    assert (seed, wrong) == (seed, [])
    assert [name for name in stored if not name.startswith("listen-")] == []
    assert containers.left(container_id) == []
    assert residue.cgroups(container_id) == []


@pytest.mark.timeout(180)
async def test_the_same_without_a_store_loses_something(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """Else the test above would show nothing."""
    wrong: list[str] = []
    for seed in range(20):
        wrong += (await run(bundle("sleep", "1000000"), new_id(), 6, seed, stores=False))[0]
        if any("255" in each for each in wrong):
            break

    assert any("255" in each for each in wrong), wrong
