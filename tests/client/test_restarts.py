"""A client whose shim ends and is followed by another on the same socket, which has its journal."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from betterproto.lib.google.protobuf import Empty
from grpclib.client import Channel
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server

import shimpy
from shimpy import api
from shimpy.api import task
from shimpy.client import restarts
from shimpy.client.restarts import CallRepeater
from shimpy.client.task_calls import TaskCalls

pytestmark = pytest.mark.anyio

_SHIM = "/containerd.shim.v1.Shim/"


class Journaled:
    """A service that answers by tokens and numbers its events, as a shim with a journal does.

    Attributes:
        journals: whether it says so.
        tokens: what the calls with a token were answered.
        done: how often each method took effect.
        events: what was published.
        hang: a method that takes effect, and is not answered.
        refuse: a method that is answered UNAVAILABLE.
        remembers: how many of the last events it knows.
    """

    def __init__(self) -> None:
        self.journals = True
        self.tokens: dict[str, Any] = {}
        self.done: dict[str, int] = {}
        self.events: list[api.Event] = []
        self.hang = self.refuse = ""
        self.remembers = 1000
        self.first = 1
        self.reached = asyncio.Event()
        self.published = asyncio.Event()
        self.seen: list[dict[str, str]] = []

    def __mapping__(self) -> dict[str, Handler]:
        unary: dict[str, tuple[type, type, Any]] = {
            "State": (api.StateRequest, api.StateResponse, api.StateResponse(id="fake")),
            "Exec": (api.ExecRequest, api.ExecResponse, api.ExecResponse(pid=7)),
            "Start": (api.StartRequest, Empty, Empty()),
        }
        found = {
            _SHIM + name: Handler(self._once(name, reply), Cardinality.UNARY_UNARY, asked, answered)
            for name, (asked, answered, reply) in unary.items()
        }
        found[_SHIM + "Events"] = Handler(
            self._follow, Cardinality.UNARY_STREAM, api.EventsRequest, api.Event
        )
        return found

    def publish(self, pid: int) -> None:
        self.events.append(api.Event(id="c", type=api.EventType.from_string("EXIT"), pid=pid))
        self.published.set()

    def _once(self, name: str, reply: Any) -> Callable[[Any], Awaitable[None]]:
        async def serve(stream: Any) -> None:
            await stream.recv_message()
            token = stream.metadata.get("shimpy-token", "")
            self.seen.append(dict(stream.metadata))
            if name == self.refuse:
                self.reached.set()
                raise GRPCError(Status.UNAVAILABLE, "it is shutting down")
            if name == "State" and self.journals:
                await stream.send_initial_metadata(metadata={"shimpy-token": token})
            if not token or token not in self.tokens:
                self.done[name] = self.done.get(name, 0) + 1
                self.tokens[token] = reply
            self.reached.set()
            if name == self.hang:
                await asyncio.Event().wait()
            await stream.send_message(self.tokens[token])

        return serve

    async def _follow(self, stream: Any) -> None:
        await stream.recv_message()
        if self.refuse == "Events":
            raise GRPCError(Status.UNAVAILABLE, "it is shutting down")
        after = int(stream.metadata.get("shimpy-after", len(self.events) + self.first - 1))
        at = max(after - self.first + 1, len(self.events) - self.remembers)
        metadata = {"shimpy-sequence": str(min(at, len(self.events)) + self.first)} if self.journals else {}
        await stream.send_initial_metadata(metadata=metadata)
        while True:
            while at < len(self.events):
                await stream.send_message(self.events[at])
                at += 1
            self.published.clear()
            if self.hang == "end":
                return
            await self.published.wait()


class _Server(Server):
    """grpclib's own, which hands on a request's metadata, and can be torn off."""

    def __init__(self, service: Journaled) -> None:
        super().__init__([service])
        self._protocols: list[H2Protocol] = []

    def _protocol_factory(self) -> H2Protocol:
        self._protocols.append(super()._protocol_factory())
        return self._protocols[-1]

    async def end(self, *, abort: bool) -> None:
        if not abort:
            await asyncio.wait([task for handler in self._handlers for task in handler._tasks.values()])
        self.close()
        for protocol in self._protocols:
            transport: Any = getattr(protocol.connection, "_transport", None)
            if transport is None:
                continue  # it has ended
            if abort:
                transport.abort()
            else:
                transport.close()
        await self.wait_closed()


class Kept:
    """A socket that outlives who serves it.

    Attributes:
        service: what is served.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.service = Journaled()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(str(path))
        self._listener.listen()
        self._server: _Server | None = None

    async def start(self) -> None:
        """Serves."""
        self._server = _Server(self.service)
        await self._server.start(sock=self._listener.dup())

    async def kill(self) -> None:
        """Ends the server, all at once."""
        await self._end(abort=True)

    async def stop(self) -> None:
        """Ends the server once all that it has said is sent."""
        await self._end(abort=False)

    async def _end(self, *, abort: bool) -> None:
        server, self._server = self._server, None
        assert server is not None
        await server.end(abort=abort)

    async def close(self) -> None:
        """Removes the socket."""
        self.path.unlink(missing_ok=True)
        self._listener.close()
        if self._server is not None:
            await self.kill()


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    with tempfile.TemporaryDirectory(prefix="shimpy-test-") as directory:
        kept = Kept(Path(directory) / "s")
        await kept.start()
        yield kept
        await kept.close()


async def test_a_call_whose_answer_was_lost_is_made_again_and_took_effect_once(kept: Kept) -> None:
    kept.service.hang = "Exec"
    async with shimpy.connect(kept.path) as client:
        call = asyncio.ensure_future(client.exec(["true"]))
        kept.service.reached.clear()
        await kept.service.reached.wait()
        kept.service.hang = ""
        await kept.kill()
        await kept.start()

        assert await call == 7

    assert kept.service.done["Exec"] == 1


async def test_a_call_that_is_made_while_nobody_serves_waits_for_the_next_shim(kept: Kept) -> None:
    async with shimpy.connect(kept.path) as client:
        await kept.kill()
        call = asyncio.ensure_future(client.start())
        done, _ = await asyncio.wait({call}, timeout=0.05)
        assert not done
        await kept.start()

        await call


async def test_a_timeout_holds_over_all_of_it(kept: Kept) -> None:
    async with shimpy.connect(kept.path) as client:
        await kept.kill()

        with pytest.raises(shimpy.DeadlineExceededError):
            await client.start(timeout=0.05)


async def test_a_shim_that_shuts_down_for_another_is_no_end(kept: Kept) -> None:
    async with shimpy.connect(kept.path) as client:
        kept.service.refuse = "Start"
        call = asyncio.ensure_future(client.start())
        await kept.service.reached.wait()
        await kept.stop()
        kept.service.refuse = ""
        await kept.start()

        await call


async def test_a_shim_whose_socket_goes_is_the_end_of_the_call(kept: Kept) -> None:
    kept.service.hang = "Start"
    async with shimpy.connect(kept.path) as client:
        call = asyncio.ensure_future(client.start())
        kept.service.reached.clear()
        await kept.service.reached.wait()
        await kept.close()

        with pytest.raises(shimpy.UnavailableError, match="cannot be reached: Connection lost"):
            await call


async def test_a_shim_without_a_journal_is_not_asked_twice(kept: Kept) -> None:
    kept.service.journals = False
    kept.service.hang = "Start"
    async with shimpy.connect(kept.path) as client:
        call = asyncio.ensure_future(client.start())
        kept.service.reached.clear()
        await kept.service.reached.wait()
        await kept.kill()
        await kept.start()

        with pytest.raises(shimpy.UnavailableError):
            await call

    assert kept.service.done["Start"] == 1
    assert "shimpy-token" not in kept.service.seen[-1]


async def test_a_call_that_kills_every_shim_is_not_repeated_for_ever(kept: Kept) -> None:
    kept.service.hang = "Start"
    async with shimpy.connect(kept.path) as client:
        call = asyncio.ensure_future(client.start())
        for _ in range(restarts.MOST_ENDS):
            kept.service.reached.clear()
            await kept.service.reached.wait()
            await kept.kill()
            await kept.start()

        with pytest.raises(shimpy.UnavailableError):
            await call


async def test_every_call_has_a_token_of_its_own(kept: Kept) -> None:
    async with shimpy.connect(kept.path) as client:
        await client.start()
        await client.start()

    tokens = [metadata["shimpy-token"] for metadata in kept.service.seen]
    assert len({*tokens}) == len(tokens) == 3
    assert max(map(len, tokens)) <= 64


async def test_events_go_on_with_the_next_one(kept: Kept) -> None:
    async with shimpy.connect(kept.path) as client, client.events() as events:
        kept.service.publish(1)
        kept.service.publish(2)
        assert (await events.receive()).pid == 1
        await kept.kill()
        kept.service.publish(3)
        await kept.start()
        kept.service.publish(4)

        assert [(await events.receive()).pid for _ in range(3)] == [2, 3, 4]


async def test_events_go_on_after_a_shim_that_shuts_down(kept: Kept) -> None:
    async with shimpy.connect(kept.path) as client, client.events() as events:
        kept.service.publish(1)
        assert (await events.receive()).pid == 1
        kept.service.hang = "end"
        reading = asyncio.ensure_future(events.receive())
        kept.service.published.set()
        await kept.stop()
        kept.service.hang = ""
        kept.service.publish(2)
        await kept.start()

        assert (await reading).pid == 2


async def test_events_end_with_a_shim_that_nobody_follows(kept: Kept) -> None:
    async with shimpy.connect(kept.path) as client, client.events() as events:
        kept.service.hang = "end"
        reading = asyncio.ensure_future(anext(events, None))
        kept.path.unlink()
        kept.service.published.set()
        await kept.stop()

        assert await reading is None


async def test_a_subscription_that_is_closed_while_nobody_serves_ends(kept: Kept) -> None:
    async with shimpy.connect(kept.path) as client:
        events = client.events()
        await events.__aenter__()
        await kept.kill()
        reading = asyncio.ensure_future(anext(events, None))
        await asyncio.wait({reading}, timeout=0.05)
        await events.aclose()

        assert await reading is None


async def test_events_that_were_forgotten_meanwhile_are_an_error(kept: Kept) -> None:
    kept.service.remembers = 2
    async with shimpy.connect(kept.path) as client, client.events() as events:
        await kept.kill()
        for pid in range(1, 6):
            kept.service.publish(pid)
        await kept.start()

        with pytest.raises(shimpy.ResourceExhaustedError, match="events: 3 were not read"):
            await events.receive()


async def test_a_shim_that_begins_to_count_anew_is_an_error(kept: Kept) -> None:
    async with shimpy.connect(kept.path) as client, client.events() as events:
        kept.service.publish(1)
        assert (await events.receive()).pid == 1
        await kept.kill()
        kept.service = Journaled()
        await kept.start()

        with pytest.raises(shimpy.UnavailableError, match="does not know what was told"):
            await events.receive()


class _Answers:
    """Makes calls of the Task API as at a shim whose predecessor has carried out Exec and Start."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    async def make(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        name = method.name.rpartition("/")[2]
        if name == "Exec":
            raise shimpy.AlreadyExistsError("exec_id")
        if name == "Start":
            raise shimpy.FailedPreconditionError("it is running")
        return task.StateResponse(pid=self._pid)


async def _channel() -> Any:
    return Channel(path="/not/used")


async def test_a_terminal_whose_shim_died_before_it_answered_is_found_again() -> None:
    calls = TaskCalls(_channel, cast(CallRepeater, _Answers(7)))

    pid, _ = await calls.exec_terminal("c", {}, stdin="", stdout="", size=(80, 24))

    assert pid == 7


async def test_a_terminal_that_cannot_be_started_is_an_error() -> None:
    calls = TaskCalls(_channel, cast(CallRepeater, _Answers(0)))

    with pytest.raises(shimpy.FailedPreconditionError, match="it is running"):
        await calls.exec_terminal("c", {}, stdin="", stdout="", size=(80, 24))
