"""examples/web_terminal.py in a real browser, with the real xterm.js."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.examples import web_terminal
from tests.support.leaks import eventually
from tests.support.time_scale import scaled

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        shutil.which("chromium") is None, reason="no chromium; with all it needs it takes over 100 MB"
    ),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm, which brings xterm.js"),
]


class Page:
    """A page, by the DevTools protocol.

    Args:
        connection: to the page's target.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Makes a call and returns its result."""
        number = next(self._numbers)
        await self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(await self._connection.recv())).get("id") != number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def value(self, expression: str) -> Any:
        """Returns what an expression comes to in the page, None if it fails."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    async def type(self, text: str) -> None:
        """Types a line, as a person at the keyboard does."""
        await self.call("Input.insertText", text=text)
        enter: dict[str, Any] = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **enter)

    async def shows(self, line: str) -> None:
        """Waits until the terminal shows a line that is this and no more."""
        lines = (
            "[...Array(terminal.buffer.active.length).keys()]"
            ".map(n => terminal.buffer.active.getLine(n).translateToString(true))"
        )
        await self.comes_to(f"{lines}.includes({json.dumps(line)})")

    async def comes_to(self, condition: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + scaled(30)
        while await self.value(condition) is not True:
            assert time.monotonic() < end, await self.value("document.body.innerText")
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """xterm.js, got as the example says."""
    directory = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--silent", "@xterm/xterm", "@xterm/addon-fit"]
    if subprocess.run(command, cwd=directory, check=False, stdin=subprocess.DEVNULL, timeout=120).returncode:
        pytest.skip("npm does not get xterm.js")
    return directory / "node_modules"


@pytest.fixture
async def page(rootfs: Path, modules: Path, tmp_path: Path) -> AsyncIterator[Page]:
    """The example's page in a browser, its shell running."""
    async with web_terminal(rootfs, modules) as address:
        browser = await asyncio.create_subprocess_exec(
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={tmp_path}",
            "--window-size=800,600",
            address,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = tmp_path / "DevToolsActivePort"
            await eventually(lambda: port.exists() and port.read_text().count("\n") == 1, within=60)
            async with connect(await asyncio.to_thread(_target, port.read_text().split()[0])) as connection:
                page = Page(connection)
                await page.call("Page.bringToFront")
                await page.comes_to("socket.readyState === 1 && terminal.buffer.active.cursorX > 0")
                yield page
        finally:
            browser.kill()
            await browser.wait()


def _target(port: str) -> str:
    """Returns the address of the page's DevTools."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as reply:
        return next(str(one["webSocketDebuggerUrl"]) for one in json.load(reply) if one["type"] == "page")


async def test_a_person_types_and_sees_what_comes(page: Page) -> None:
    """In a terminal of the window's size, also when that changes, until the shell ends."""
    await page.type("echo $((6 * 7))")
    await page.shows("42")
    columns = await page.value("terminal.cols")
    await page.type("clear; stty size")
    await page.shows(f"{await page.value('terminal.rows')} {columns}")

    await page.call(
        "Emulation.setDeviceMetricsOverride", width=500, height=300, deviceScaleFactor=1, mobile=False
    )
    await page.comes_to(f"terminal.cols !== {columns}")
    await page.type("clear; stty size")
    await page.shows(await page.value("`${terminal.rows} ${terminal.cols}`"))

    await page.type("clear; exit 9")
    await page.shows("[exit status 9]")
