"""A shim that is held up while much happens: SIGSTOP, hundreds of deaths, SIGCONT."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from shimpy.api import CreateRequest, DeleteRequest, ExecRequest, StartRequest, StateRequest
from tests.support.events import record
from tests.support.kinds import CREATE, EXEC_ADDED, EXIT, START, STOPPED
from tests.support.lives import KILLED
from tests.support.rounds import FULL, rounds
from tests.support.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(rounds(60, 300))]

# Seconds for which the shim does nothing.
HELD = 5.0 if FULL else 1.5


async def test_no_exit_is_lost_by_a_shim_that_was_held(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """Signals merge meanwhile, and the clients' calls wait; afterwards each is answered."""
    stub = server.stub()
    async with record(stub) as recorder:
        pid = (await stub.create(CreateRequest(id=new_id(), bundle=bundle("sleep", "1000000")))).pid
        await stub.start(StartRequest())
        width = asyncio.Semaphore(4)

        async def run() -> int:
            async with width:
                return (await stub.exec(ExecRequest(args=["sleep", "1000000"]))).pid

        execs = await asyncio.gather(*(run() for _ in range(rounds(30, 300))))
        server.process.send_signal(signal.SIGSTOP)
        for each in execs:
            os.kill(each, signal.SIGKILL)
        waiting = asyncio.ensure_future(stub.state(StateRequest()))
        await asyncio.sleep(HELD)
        server.process.send_signal(signal.SIGCONT)
        assert (await waiting).init_pid == pid

        for each in execs:
            assert (await recorder.wait_for(EXIT, each)).exit_status == KILLED
        listed = (await stub.state(StateRequest())).processes
        assert [process.pid for process in listed if process.state == STOPPED] == [
            event.pid for event in recorder.seen if event.type == EXEC_ADDED
        ]
        assert (await stub.delete(DeleteRequest(pid=pid))).exit_status == KILLED
        await recorder.wait_for(EXIT, pid)
    assert Counter(event.type for event in recorder.seen) == {
        CREATE: 1,
        START: 1,
        EXEC_ADDED: len(execs),
        EXIT: len(execs) + 1,
    }
