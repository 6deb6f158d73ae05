"""examples/web_terminal.py, with a client in place of the browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.support.examples import web_terminal
from tests.support.leaks import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def address(rootfs: Path, tmp_path: Path) -> AsyncIterator[str]:
    """Where it serves; at the end no container of it is left."""
    module = tmp_path / "modules" / "@xterm" / "xterm" / "lib" / "xterm.js"
    module.parent.mkdir(parents=True)
    module.write_text("// xterm")
    async with web_terminal(rootfs, tmp_path / "modules") as address:
        yield address


def socket(address: str) -> str:
    """Returns the address of its WebSocket."""
    return address.replace("http:", "ws:").replace("/?", "/socket?")


async def until(connection: ClientConnection, awaited: bytes) -> None:
    """Reads until something has been shown."""
    shown = b""
    while awaited not in shown:
        data = await connection.recv()
        assert isinstance(data, bytes)
        shown += data


async def test_a_shell_in_a_browser(address: str) -> None:
    async with connect(socket(address)) as connection:
        await connection.send(json.dumps([123, 45]))
        await connection.send(b"stty size; echo $((6 * 7))\n")
        await until(connection, b"45 123\r\n42\r\n")
        await connection.send(json.dumps([80, 24]))
        await connection.send(b"stty size; exit 9\n")
        await until(connection, b"24 80\r\n")
        async for _ in connection:
            pass
        assert connection.close_reason == "exit status 9"


async def test_closing_the_window_ends_the_container(address: str) -> None:
    async with connect(socket(address)) as connection:
        await connection.send(json.dumps([80, 24]))
        await connection.send(b"echo shell $$\n")
        await until(connection, b"shell ")
        assert shells()
    await eventually(lambda: not shells())


async def test_without_the_secret_there_is_nothing(address: str) -> None:
    for url in (address.partition("secret=")[0], address + "x"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            await asyncio.to_thread(urllib.request.urlopen, url)
        with pytest.raises(InvalidStatus, match="403"):
            await connect(socket(url))


async def test_the_page_has_what_it_names(address: str) -> None:
    def read(url: str) -> str:
        with contextlib.closing(urllib.request.urlopen(url)) as reply:
            return str(reply.read().decode())

    page = await asyncio.to_thread(read, address)
    assert '<script src="/xterm.js">' in page
    assert await asyncio.to_thread(read, address.partition("?")[0] + "xterm.js") == "// xterm"


def shells() -> list[str]:
    """Returns the inits of containers that the example has made, by what they have been told to run."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if "/web-terminal-" in Path(f"/proc/{pid}/cgroup").read_text():
                found.append(pid)
    return found
