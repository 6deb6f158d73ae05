"""How many system calls of `python -m shimpy` a call costs: the part of its price that no machine changes."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shimpy.api import CreateRequest, DeleteRequest, ExecRequest, StartRequest, StateRequest
from tests.support import bundles, containers
from tests.support.events import record
from tests.support.kinds import EXIT
from tests.support.servers import Server
from tests.support.syscalls import SystemCalls

pytestmark = pytest.mark.anyio

# In which an installed runtime is found at the third place.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextlib.contextmanager
def counted(calls: SystemCalls, spent: list[int]) -> Iterator[None]:
    before = calls.count
    yield
    spent.append(calls.count - before)


async def test_the_system_calls_of_each_call(tmp_path: Path) -> None:
    """To its reply; of an exec to its EXIT as well. State, whose price is that of gRPC, runs no command."""
    bundle = bundles.make_bundle(
        tmp_path / "bundle", bundles.make_rootfs(tmp_path / "rootfs"), ["sleep", "1000000"]
    )
    spent: dict[str, list[int]] = {name: [] for name in ("create", "exec", "start", "delete", "state")}
    server = Server(environment={"PATH": _PATH})
    try:
        server.wait_until_it_listens()
        shim = server.stub()
        async with record(shim) as recorder:
            with SystemCalls(server.pid) as calls:

                async def call(name: str, reply: Awaitable[Any]) -> Any:
                    with counted(calls, spent[name]):
                        return await reply

                for _ in range(8):
                    create = CreateRequest(id=containers.new_id(), bundle=bundle)
                    init = (await call("create", shim.create(create))).pid
                    await call("start", shim.start(StartRequest()))
                    await call("state", shim.state(StateRequest()))
                    with counted(calls, spent["exec"]):
                        reply = await shim.exec(ExecRequest(args=["true"]))
                        await recorder.wait_for(EXIT, reply.pid)
                    await call("delete", shim.delete(DeleteRequest(pid=init)))
    finally:
        server.close()

    # The first create makes what the next ones use again; a signal more or less is luck.
    least = {name: min(numbers) for name, numbers in spent.items()}
    limits = {"create": 150, "exec": 120, "start": 70, "delete": 300, "state": 15}
    assert {name: number for name, number in least.items() if number > limits[name]} == {}, spent
