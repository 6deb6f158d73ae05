"""One container of the soak, from its Create until nothing is left of it."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from shimpy.api import (
    CreateRequest,
    DeleteRequest,
    Event,
    EventType,
    ResumeRequest,
    ShimStub,
    StartRequest,
    State,
    StateRequest,
    StateResponse,
)
from tests.soak.clients import TIMEOUT, Clients
from tests.soak.model import NONE, PAUSED, Model
from tests.support import containers
from tests.support.bundles import make_bundle, make_rootfs
from tests.support.leaks import children, descriptors
from tests.support.servers import Server

# Seconds within which State and Events must agree with the model when nothing is under way.
QUIET = 10


@dataclass(frozen=True)
class Kind:
    """A kind of container.

    Attributes:
        bundle: the path.
        statuses: what init exits with of its own accord; none if it does not.
        terminal: whether it has one.
        own_pids: whether it has a pid namespace of its own.
        writes: whether init writes more to its stdout than a pipe holds.
    """

    bundle: str
    statuses: tuple[int, ...] = ()
    terminal: bool = False
    own_pids: bool = True
    writes: bool = False


def make_kinds(directory: Path) -> list[Kind]:
    """Makes the bundles."""
    rootfs = make_rootfs(directory / "rootfs")

    def bundle(name: str, *args: str, **options: bool) -> str:
        return make_bundle(directory / name, rootfs, args, **options)  # type: ignore[arg-type]

    return [
        Kind(bundle("stays", "sleep", "1000000")),
        Kind(bundle("shared", "sleep", "1000000", own_pid_namespace=False), own_pids=False),
        Kind(bundle("family", "sh", "-c", "sleep 1000000 & sleep 1000000 & wait")),
        Kind(bundle("ends", "sh", "-c", "exit 7"), statuses=(7,)),
        Kind(bundle("soon", "sh", "-c", "sleep 0.1; exit 8"), statuses=(8,)),
        Kind(bundle("terminal", "cat", terminal=True), terminal=True),
        Kind(bundle("writes", "sh", "-c", "seq 1 30000; exec sleep 1000000"), writes=True),
    ]


class Life:
    """One container.

    Args:
        server: the shim.
        stubs: its clients.
        events: every event of the shim, from its first on; what is added is of this container.
        kind: of which kind it is.
        choices: what is chosen from.
        directory: for its files; it is made and removed.
        differ: called with words for each difference from what must be.
        counts: how often what was done.

    Attributes:
        log: a line for each thing that was done and happened.
    """

    def __init__(
        self,
        server: Server,
        stubs: Sequence[ShimStub],
        events: list[Event],
        kind: Kind,
        choices: random.Random,
        directory: Path,
        differ: Callable[[str], None],
        counts: Counter[str],
    ) -> None:
        self.log: list[str] = []
        self._begun = time.monotonic()
        self._server = server
        self._stubs = stubs
        self._events = events
        self._first = self._read = len(events)
        self._connected = self._connections()
        self._kind = kind
        self._choices = choices
        self._directory = directory
        self._differ = differ
        self._model = Model(
            differ, mortal=bool(kind.statuses), statuses=kind.statuses, terminal=kind.terminal
        )
        self._clients = Clients(
            server, self._model, directory, differ, self.note, counts, self.news, own_pids=kind.own_pids
        )

    @property
    def over(self) -> bool:
        """Whether there is no container any more."""
        return self._model.possible == {NONE}

    def note(self, words: str) -> None:
        """Adds a line to the log, which is shown when something differs."""
        self.log.append(f"{time.monotonic() - self._begun:8.4f} {words}")

    def news(self) -> None:
        """Tells the model of the events that have come since the last time."""
        new = self._events[self._read :]
        self._read += len(new)
        for event in new:
            self.note(f"event {EventType(event.type).name} {event.pid} {event.exit_status}")
            self._model.happened(event)

    async def live(self) -> None:
        """Goes from Create to where nothing is left."""
        self._directory.mkdir()
        try:
            await self._create()
            for _ in range(self._choices.randint(1, 3)):
                if NONE in self._model.possible:
                    break
                await self._phase()
            await self._delete()
            await self._nothing_is_left()
        finally:
            for output in self._clients.outputs:
                output.close()
            shutil.rmtree(self._directory)

    async def _create(self) -> None:
        """Several at once, of which one succeeds, unless it was cut off."""
        fields: dict[str, object] = {"terminal": self._kind.terminal}
        if self._kind.writes:
            (self._directory / "stdout").touch()
            fields["stdout"] = str(self._directory / "stdout")
        seeds = [random.Random(self._choices.random()) for _ in range(self._choices.choice([1, 1, 2, 3]))]

        def create(choices: random.Random | None, stub: ShimStub) -> asyncio.Task[object]:
            fields["id"] = containers.new_id()
            return asyncio.ensure_future(
                self._clients.create(choices, stub, self._kind.bundle, **dict(fields))
            )

        await asyncio.gather(*(create(*pair) for pair in zip(seeds, self._stubs, strict=False)))
        await self._settle()
        if self._model.possible == {NONE}:
            await create(None, self._stubs[0])
            await self._settle()
        if self._choices.random() < 0.9:
            await self._clients.ask(self._stubs[0], "start", StartRequest())

    async def _phase(self) -> None:
        """All clients take some steps, and then all must be as it should."""
        count = self._choices.randint(3, 10)
        seeds = [random.Random(self._choices.random()) for _ in self._stubs]
        steps = [
            asyncio.ensure_future(self._clients.steps(stub, choices, count))
            for stub, choices in zip(self._stubs, seeds, strict=True)
        ]
        # An exec of a frozen container dies, and its Delete ends, when somebody thaws it.
        while (await asyncio.wait(steps, timeout=1))[1]:
            if PAUSED in self._model.possible:
                await self._clients.ask(self._stubs[0], "resume", ResumeRequest())
        await asyncio.gather(*steps)
        await self._settle()

    async def _settle(self) -> None:
        """Waits until nothing is under way any more, and State and Events are as they must be."""
        end = time.monotonic() + QUIET
        while True:
            under_way = await self._under_way()
            there = {*children(self._server.pid)}
            state = await self._state(self._stubs[0])
            self.news()
            wrong = self._model.differs(state)
            # What a call that was cut off has left to be undone shows in a child that State does not list.
            if strangers := there - {process.pid for process in state.processes}:
                under_way = under_way or f"children of the shim that State does not list: {strangers}"
            if not wrong and not under_way:
                break
            if time.monotonic() > end:
                self._differ(wrong or under_way)
                break
            await asyncio.sleep(0.01)
        self.note("all quiet")
        self._model.settle(state)

    async def _under_way(self) -> str:
        """Returns in words what the shim may still be doing for those who have gone; empty if it is nothing.

        A call that was cut off may reach the shim after the next one of somebody else, and is being
        undone, or completed, for a moment after the last child that State does not list has ended: a
        State that comes in between tells what was before. Not so the answer to another change, which
        waits until the one before it is decided.
        """
        # Whatever came before these on their connections has begun, and who connected before is known.
        states = await asyncio.gather(*(self._state(stub) for stub in self._stubs))
        if (connections := self._connections() - self._connected) > 0:
            return f"{connections} connections whose clients have gone"
        ask: Awaitable[object]
        if not states[0].processes:
            ask = self._stubs[0].create(CreateRequest(id="x", bundle="/no/such"))
        elif states[0].processes[0].state == State.CREATED:
            ask = self._stubs[0].resume(ResumeRequest())
        else:
            ask = self._stubs[0].start(StartRequest())
        try:
            await asyncio.wait_for(ask, TIMEOUT)
        except GRPCError as error:
            words = error.message or ""
            return words if "is being" in words or error.status is Status.ALREADY_EXISTS else ""
        return "a change that was forbidden by what State had said before has succeeded"

    async def _state(self, stub: ShimStub) -> StateResponse:
        return await asyncio.wait_for(stub.state(StateRequest()), TIMEOUT)

    def _connections(self) -> int:
        return sum(name.startswith("socket:") for name in descriptors(self._server.pid).values())

    async def _delete(self) -> None:
        """Deletes some execs, then init in whatever state it is, by several clients at once."""
        model, choices = self._model, self._choices
        for pid, process in list(model.execs.items()):
            if not process.deleted and choices.random() < 0.3:
                if PAUSED in model.possible and process.exit is None:
                    continue
                await self._clients.ask(self._stubs[0], "delete exec", DeleteRequest(pid=pid))
        if model.init is not None and NONE not in model.possible:
            request = DeleteRequest(pid=model.init.pid)
            # The first is not cut off.
            cuts = [None, random.Random(choices.random()), random.Random(choices.random())]
            count = choices.randint(1, 3)
            await asyncio.gather(
                *(
                    self._clients.ask(stub, "delete init", request, choices=cut)
                    for stub, cut in zip(self._stubs, cuts[:count], strict=False)
                )
            )
        await self._settle()

    async def _nothing_is_left(self) -> None:
        model = self._model
        if model.possible != {NONE}:
            self._differ(f"after its Delete the container is {model.possible}")
        if model.init is None or model.init.exit is None:
            self._differ("init was deleted and has no EXIT")
        if unfinished := [pid for pid, process in model.execs.items() if process.exit is None]:
            self._differ(f"deleted and without an EXIT: {unfinished}")
        for container_id in model.ids:
            if left := containers.left(container_id) + containers.cgroups(container_id):
                self._differ(f"left behind: {left}")
        for output in self._clients.outputs:
            process = model.execs.get(output.pid)
            if process is not None and (wrong := await output.differs(process.exit)):
                self._differ(wrong)
        mine = self._events[self._first :]
        for seen in self._clients.watched:
            if not any(mine[at : at + len(seen)] == seen for at in range(len(mine) + 1)):
                self._differ(f"a subscriber has seen {seen}, which is no part of what there was")
