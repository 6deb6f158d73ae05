"""A container in the hands of a test, from Create to Delete, through a client of the service."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from shimpy.api import CreateRequest, DeleteRequest, ExecRequest, ShimStub, StartRequest, State, StateRequest
from tests.support.events import Recorder
from tests.support.kinds import EXIT

# The exit status of a process that was sent SIGKILL.
KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """An exec that has run and is deleted.

    Attributes:
        pid: its pid.
        status: its exit status.
        stdout: what it wrote.
        stderr: likewise.
    """

    pid: int
    status: int
    stdout: str
    stderr: str


class Life:
    """One container of a service.

    Args:
        shim: a client of the service.
        recorder: what the service publishes.
        container_id: the id.
        bundle: the bundle.
        directory: where files for output are made.

    Attributes:
        pid: of init, once it is created.
    """

    _numbers = itertools.count(1)

    def __init__(
        self, shim: ShimStub, recorder: Recorder, container_id: str, bundle: str, directory: Path
    ) -> None:
        self.shim = shim
        self.recorder = recorder
        self.id = container_id
        self.bundle = bundle
        self.pid = 0
        self._directory = directory

    async def create(self, **fields: Any) -> int:
        """Creates it; *fields* are those of CreateRequest beside id and bundle."""
        reply = await self.shim.create(CreateRequest(id=self.id, bundle=self.bundle, **fields))
        self.pid = reply.pid
        return reply.pid

    async def start(self) -> None:
        """Starts it."""
        await self.shim.start(StartRequest())

    async def exec(self, *args: str, **fields: Any) -> int:
        """Starts a process in it and returns its pid; *fields* are those of ExecRequest beside args."""
        return (await self.shim.exec(ExecRequest(args=list(args), **fields))).pid

    async def exit_of(self, pid: int) -> int:
        """Waits for the EXIT of a process and returns its status."""
        return (await self.recorder.wait_for(EXIT, pid)).exit_status

    async def run(self, *args: str, **fields: Any) -> Ended:
        """Runs a process in it to its end, deletes it, and returns what it wrote."""
        number = next(self._numbers)
        paths = [self._directory / f"{name}{number}" for name in ("stdout", "stderr")]
        for path in paths:
            path.touch()
        fields = {"stdout": str(paths[0]), "stderr": str(paths[1]), **fields}
        pid = await self.exec(*args, **fields)
        status = await self.exit_of(pid)
        assert await self.delete(pid) == status
        return Ended(pid, status, *(path.read_text() for path in paths))

    async def delete(self, pid: int | None = None) -> int:
        """Deletes a process, init if none is named, and returns the exit status."""
        return (await self.shim.delete(DeleteRequest(pid=self.pid if pid is None else pid))).exit_status

    async def states(self) -> dict[int, State]:
        """Returns what State says, pid by pid, in its order."""
        reply = await self.shim.state(StateRequest())
        return {process.pid: State(process.state) for process in reply.processes}

    async def state(self) -> State | None:
        """Returns what State says of init; None if there is no container."""
        return (await self.states()).get(self.pid)


@contextlib.asynccontextmanager
async def lives(
    shim: ShimStub,
    recorder: Recorder,
    bundle: Callable[..., str],
    new_id: Callable[[], str],
    directory: Path,
) -> AsyncIterator[Callable[..., Life]]:
    """Yields what prepares containers of a service, and deletes one that is still there at the end.

    Args:
        shim: a client of the service.
        recorder: what the service publishes.
        bundle: makes bundles.
        new_id: makes ids.
        directory: where files for output are made.
    """
    made: list[Life] = []

    def prepare(*args: str, **options: Any) -> Life:
        made.append(Life(shim, recorder, new_id(), bundle(*args, **options), directory))
        return made[-1]

    yield prepare
    for life in made:
        if life.pid and await life.state() is not None:
            await life.delete()


async def refused(call: Awaitable[object], status: Status, *words: str) -> str:
    """Fails unless a call ends with this status, and each of these words in its message.

    Returns:
        The message.
    """
    with pytest.raises(GRPCError) as caught:
        await call
    message = caught.value.message or ""
    assert caught.value.status is status, message
    for word in words:
        assert word in message
    assert "Traceback" not in message
    return message


async def too_late(call: Awaitable[object]) -> None:
    """Fails unless the call's deadline passes, of which either side may be the first to take note."""
    with pytest.raises((TimeoutError, GRPCError)) as caught:
        await call
    if isinstance(caught.value, GRPCError):
        assert caught.value.status is Status.DEADLINE_EXCEEDED
