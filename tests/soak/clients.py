"""What the clients of the soak do: each step is chosen at random, and told to the model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from shimpy.api import (
    CreateRequest,
    DeleteRequest,
    Event,
    EventsRequest,
    ExecRequest,
    PauseRequest,
    PtyRequest,
    ResumeRequest,
    ShimStub,
    StartRequest,
    StateRequest,
)
from tests.soak.model import Call, Model, Program
from tests.soak.output import Output
from tests.support.events import record
from tests.support.leaks import children
from tests.support.servers import Server

# Seconds after which a call without a deadline is taken to hang.
TIMEOUT = 30

_REQUESTS: dict[str, Callable[[ShimStub], Callable[..., Awaitable[Any]]]] = {
    "create": lambda stub: stub.create,
    "start": lambda stub: stub.start,
    "exec": lambda stub: stub.exec,
    "delete init": lambda stub: stub.delete,
    "delete exec": lambda stub: stub.delete,
    "resize": lambda stub: stub.pty,
    "state": lambda stub: stub.state,
    "pause": lambda stub: stub.pause,
    "resume": lambda stub: stub.resume,
}


class Clients:
    """The clients of one container.

    Args:
        server: the shim.
        model: what is told of each call.
        directory: where FIFOs are made.
        differ: called with words for each difference from what must be.
        log: called with a line for each thing that is done.
        counts: how often what was done.
        news: tells the model what events have come meanwhile.
        own_pids: whether the container has a pid namespace of its own.

    Attributes:
        outputs: what is being read.
        watched: what each passing subscriber has seen.
    """

    def __init__(
        self,
        server: Server,
        model: Model,
        directory: Path,
        differ: Callable[[str], None],
        log: Callable[[str], None],
        counts: Counter[str],
        news: Callable[[], None],
        *,
        own_pids: bool,
    ) -> None:
        self._server = server
        self._model = model
        self._directory = directory
        self._differ = differ
        self._log = log
        self._counts = counts
        self._news = news
        self._own_pids = own_pids
        self._steps: dict[Callable[[ShimStub, random.Random], Awaitable[None]], int] = {
            self._exec: 30,
            self._kill: 10,
            self._delete_exec: 10,
            self._resize: 6,
            self._state: 6,
            self._pause: 5,
            self._resume: 7,
            self._start: 2,
            self._nonsense: 4,
            self._flood: 2,
            self._watch: 2,
            self._kill_init: 1,
            self._delete_init: 1,
        }
        self.outputs: list[Output] = []
        self.watched: list[list[Event]] = []

    async def steps(self, stub: ShimStub, choices: random.Random, count: int) -> None:
        """Takes so many steps, one after the other."""
        for _ in range(count):
            step = choices.choices([*self._steps], [*self._steps.values()])[0]
            # Drawn from a generator of its own: what a step finds does not change what follows.
            await step(stub, random.Random(choices.random()))

    async def ask(
        self,
        stub: ShimStub,
        kind: str,
        request: Any,
        *,
        program: Program | None = None,
        choices: random.Random | None = None,
    ) -> Any:
        """Makes a call, tells the model what became of it, and returns the reply if there is one.

        Args:
            stub: who calls.
            kind: which, as the model names it.
            request: with what.
            program: what an exec runs.
            choices: says whether the call is cut off by a deadline or by the going of its client;
                None if it is not.
        """
        cut = choices.choices(["", "deadline", "client goes"], [75, 17, 8])[0] if choices else ""
        delay = 10 ** choices.uniform(-3.3, -1.1) if choices else 0
        self._news()
        call = self._model.begin(kind, getattr(request, "pid", 0), program)
        words = (
            f"{kind} {call.pid or ''} {request.args if program else ''} {f'{cut} {delay:.4f}' if cut else ''}"
        )
        self._log(f"{words} …")
        reply = None
        try:
            if cut == "client goes":
                reply = await self._from_a_client_that_goes(kind, request, delay)
            else:
                async with asyncio.timeout(TIMEOUT):
                    reply = await _REQUESTS[kind](stub)(request, timeout=delay if cut else None)
            self._news()
        except GRPCError as error:
            self._news()
            outcome = error.status.name
            if outcome == "DEADLINE_EXCEEDED" and cut:
                self._model.lost(call)
            else:
                self._model.refused(call, outcome, error.message or "")
        except (TimeoutError, OSError, StreamTerminatedError, asyncio.CancelledError) as error:
            outcome = type(error).__name__
            self._model.lost(call)
            if not cut:
                self._differ(f"{words}: {outcome}")
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            outcome = "OK"
            self._note(call, reply)
        counted = "cut off" if cut and outcome != "OK" else outcome
        self._counts[f"{kind}: {counted}"] += 1
        self._log(f"… {words}: {outcome} {getattr(reply, 'pid', '')}")
        return reply

    def _note(self, call: Call, reply: Any) -> None:
        if call.kind == "state":
            self._model.seen(call, reply)
        else:
            self._model.succeeded(call, getattr(reply, "exit_status", getattr(reply, "pid", 0)))

    async def _from_a_client_that_goes(self, kind: str, request: Any, delay: float) -> Any:
        channel = Channel(path=str(self._server.socket))
        calling = asyncio.ensure_future(_REQUESTS[kind](ShimStub(channel))(request))
        await asyncio.wait([calling], timeout=delay)
        channel.close()
        if not calling.done():
            # A channel that is closed while it connects goes on connecting.
            calling.cancel()
            await asyncio.wait([calling])
            if calling.cancelled():
                raise ConnectionAbortedError
        return calling.result()

    # The steps.

    async def create(self, choices: random.Random | None, stub: ShimStub, bundle: str, **fields: Any) -> Any:
        """Makes a Create with an id of its own."""
        container_id = fields.pop("id")
        self._model.ids.add(container_id)
        request = CreateRequest(id=container_id, bundle=bundle, **fields)
        return await self.ask(stub, "create", request, choices=choices)

    async def _exec(self, stub: ShimStub, choices: random.Random) -> None:
        fields: dict[str, Any] = {}
        output: Output | None = None
        kind = choices.choices(
            ["ends", "stays", "family", "writes", "terminal", "terminal writes", "missing"],
            [30, 25, 10, 12, 10, 8, 5],
        )[0]
        if kind == "ends":
            status = choices.randrange(120)
            program = Program(("sh", "-c", f"exit {status}"), frozenset({status}))
        elif kind == "family" and self._own_pids:
            program = Program(("sh", "-c", "sleep 1000000 & (sleep 1000000 &) ; exit 3"), frozenset({3}))
        elif kind in ("writes", "terminal writes"):
            count = choices.choice([1, 100, 12_000, 30_000])
            # One who writes into a terminal that nobody reads waits at its end.
            program = Program(("seq", "1", str(count)), frozenset({0}), terminal=kind != "writes")
            reads = choices.random() < 0.7
            output = Output(self._directory, count, terminal=program.terminal, reads=reads)
            fields["stdout"] = output.path
        elif kind == "terminal":
            program = Program(("cat",), terminal=True)
        elif kind == "missing":
            program = Program(("/no/such/program",))
        else:
            program = Program(("sleep", "1000000"))
        request = ExecRequest(args=list(program.args), terminal=program.terminal, **fields)
        reply = await self.ask(stub, "exec", request, program=program, choices=choices)
        if reply is None:
            return
        # Killed with its container before it could find out, it looks to the runtime like one that has
        # begun (the pipe by which it would complain is closed); then it was killed, and nothing else.
        if kind == "missing" and not self._model.ending:
            self._differ(f"an exec of what is not there has succeeded: {reply.pid}")
        if output is not None:
            process = self._model.find(reply.pid)
            # What nobody has begun to read before the Delete is lost with it.
            deleted = (process is not None and process.deletes > 0) or self._model.deleting
            output.begin(reply.pid, whole=not deleted)
            self.outputs.append(output)

    def _some_exec(self, choices: random.Random) -> int:
        """Returns the pid of an exec, which may be deleted already; 0 if there never was one."""
        there = [pid for pid, process in self._model.execs.items() if not process.deleted]
        if choices.random() < 0.1:
            there = [*self._model.execs]
        return there[int(choices.random() * len(there))] if there else 0

    async def _kill(self, stub: ShimStub, choices: random.Random) -> None:
        if pid := self._some_exec(choices):
            self._send_kill(pid)

    async def _kill_init(self, stub: ShimStub, choices: random.Random) -> None:
        if self._model.init is not None:
            self._send_kill(self._model.init.pid)

    def _send_kill(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            # It may have been reaped, and the pid be somebody else's.
            if pid in children(self._server.pid):
                self._log(f"kill -9 {pid}")
                self._counts["kill -9"] += 1
                self._news()
                self._model.killed(pid)
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)

    async def _delete_exec(self, stub: ShimStub, choices: random.Random) -> None:
        if pid := self._some_exec(choices):
            await self.ask(stub, "delete exec", DeleteRequest(pid=pid), choices=choices)

    async def _delete_init(self, stub: ShimStub, choices: random.Random) -> None:
        if self._model.init is not None:
            await self.ask(stub, "delete init", DeleteRequest(pid=self._model.init.pid), choices=choices)

    async def _resize(self, stub: ShimStub, choices: random.Random) -> None:
        pid = self._some_exec(choices)
        if self._model.init is not None and (not pid or choices.random() < 0.2):
            pid = self._model.init.pid
        if pid:
            width, height = choices.randrange(1, 65536), choices.randrange(1, 65536)
            await self.ask(stub, "resize", PtyRequest(pid=pid, width=width, height=height), choices=choices)

    async def _state(self, stub: ShimStub, choices: random.Random) -> None:
        await self.ask(stub, "state", StateRequest(), choices=choices)

    async def _start(self, stub: ShimStub, choices: random.Random) -> None:
        await self.ask(stub, "start", StartRequest(), choices=choices)

    async def _pause(self, stub: ShimStub, choices: random.Random) -> None:
        await self.ask(stub, "pause", PauseRequest(), choices=choices)

    async def _resume(self, stub: ShimStub, choices: random.Random) -> None:
        await self.ask(stub, "resume", ResumeRequest(), choices=choices)

    async def _nonsense(self, stub: ShimStub, choices: random.Random) -> None:
        """Makes a call that is refused whatever the state."""
        request, statuses = choices.choice(
            [
                (DeleteRequest(pid=0), "INVALID_ARGUMENT"),
                (DeleteRequest(pid=1), "NOT_FOUND"),
                (PtyRequest(pid=0), "INVALID_ARGUMENT"),
                (PtyRequest(pid=1), "NOT_FOUND"),
                (ExecRequest(), "INVALID_ARGUMENT FAILED_PRECONDITION"),
                (ExecRequest(args=["true"], cwd="x"), "INVALID_ARGUMENT FAILED_PRECONDITION"),
                (ExecRequest(args=["true"], stdout="/no/such"), "NOT_FOUND FAILED_PRECONDITION"),
                (CreateRequest(id="-"), "INVALID_ARGUMENT"),
                (CreateRequest(id="x", bundle="/no/such"), "ALREADY_EXISTS NOT_FOUND"),
            ]
        )
        name = type(request).__name__.removesuffix("Request").lower()
        try:
            async with asyncio.timeout(TIMEOUT):
                await getattr(stub, name)(request)
        except GRPCError as error:
            if error.status.name not in statuses.split():
                self._differ(f"{request} was refused with {error.status.name}: {error.message}")
        except TimeoutError:
            self._differ(f"{request} hangs")
        else:
            self._differ(f"{request} has succeeded")
        self._counts["nonsense"] += 1

    async def _flood(self, stub: ShimStub, choices: random.Random) -> None:
        """Makes many calls at once, or opens and leaves many streams."""
        channel = Channel(path=str(self._server.socket))
        one = ShimStub(channel)
        count = choices.choice([20, 100])

        async def follow() -> None:
            async for _ in one.events(EventsRequest()):
                pass

        streams = choices.random() < 0.5
        calls = [
            asyncio.ensure_future(follow() if streams else one.state(StateRequest())) for _ in range(count)
        ]
        self._log(f"flood of {count} {'streams' if streams else 'calls'}")
        await asyncio.wait(calls, timeout=0.01 if streams else TIMEOUT)
        for each in calls:
            each.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        channel.close()
        self._counts["flood"] += 1
        if not streams and (wrong := [one for one in results if isinstance(one, BaseException)]):
            self._differ(f"a flood of State: {wrong[:3]}")

    async def _watch(self, stub: ShimStub, choices: random.Random) -> None:
        """Watches on a connection of its own for a while; what it sees is a part of what there was."""
        channel = Channel(path=str(self._server.socket))
        async with record(ShimStub(channel)) as recorder:
            await self.ask(stub, "state", StateRequest())
            await asyncio.sleep(choices.random() / 10)
            seen = recorder.seen
            if recorder.error is not None:
                self._differ(f"a stream has ended with {recorder.error}")
        channel.close()
        self.watched.append(seen)
        self._counts["watch"] += 1
