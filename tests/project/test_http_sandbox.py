"""examples/http_sandbox.py, as a real server has it: with scripts that mean well, and such that do not."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import shimpy
from shimpy.client.program import program
from tests.support.leaks import eventually
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio


def load() -> Any:
    """Returns the example, as a module."""
    spec = importlib.util.spec_from_file_location("http_sandbox", ROOT / "examples" / "http_sandbox.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def port(rootfs: Path) -> AsyncIterator[int]:
    """The port that it answers on."""
    config = uvicorn.Config(
        load().Sandboxes(str(rootfs)), port=0, log_level="error", ws="none", loop="asyncio"
    )
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server.serve())
    await eventually(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


async def _connected(port: int, body: bytes, method: str = "POST") -> tuple[Any, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


async def _post(port: int, script: bytes, method: str = "POST") -> tuple[int, dict[str, Any]]:
    reader, writer = await _connected(port, script, method)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), json.loads(body)


async def test_a_script_is_run_and_answered(port: int) -> None:
    status, said = await _post(port, b"echo hello; echo oops >&2; id -u; exit 3")
    assert status == 200
    assert (said["stdout"], said["stderr"], said["exit_status"]) == ("hello\n0\n", "oops\n", 3)


async def test_twelve_at_once_get_their_own_answers(port: int) -> None:
    answers = await asyncio.gather(*(_post(port, f"echo {n}".encode()) for n in range(12)))
    assert [said["stdout"] for _, said in answers] == [f"{n}\n" for n in range(12)]


async def test_a_client_that_leaves_takes_its_script_with_it(port: int) -> None:
    directory = program.open()

    def made() -> set[str]:
        """What there is of sandboxes, another test's among it."""
        folders = {name for name in os.listdir(directory.path) if name.startswith("tmp-")}
        return folders | {one.id for one in directory.containers() if one.pid}

    before = made()
    _, writer = await _connected(port, b"sleep 1000 & sleep 1000")
    await eventually(lambda: len(made() - before) == 2)  # its folder, and its container, which runs
    writer.close()
    await eventually(lambda: made() <= before)


async def test_of_a_client_that_leaves_before_its_script_is_there_nothing_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_message: object) -> None:
        raise AssertionError("nobody is there")

    async def run(*_arguments: object, **_options: object) -> None:
        raise AssertionError("there is no script")

    monkeypatch.setattr(shimpy, "run", run)
    await load().Sandboxes("/none")({"type": "http", "method": "POST"}, receive, send)


async def test_what_is_not_a_script_is_refused(port: int) -> None:
    assert (await _post(port, b"", "GET"))[0] == 405
    assert (await _post(port, b"#" * 70_000))[0] == 413
