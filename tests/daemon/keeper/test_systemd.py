"""The units of the documentation under a real systemd, which holds what a shim leaves, or runs its keeper."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import shimpy
from shimpy.core.journal import JournalDirectory
from shimpy.daemon.keeper.children import remembers_exits
from tests.support.leaks import children, eventually
from tests.support.paths import ROOT
from tests.support.systemd import FirstProcess, Systemd, UserSystemd

pytestmark = pytest.mark.anyio

_PAGE = ROOT / "docs" / "pages" / "guides" / "supervised.md"

_NEEDS_STATUSES = pytest.mark.skipif(
    not remembers_exits(), reason="needs Linux 6.15, whose pidfds tell the exit status"
)


def files() -> dict[str, str]:
    """Returns the files of the documentation, for this interpreter and a directory of the test's own."""
    found = re.findall(r"```ini\n# /etc/systemd/system/([^\s:]+).*?\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    return {
        os.path.basename(name): text.replace("/opt/shimpy/bin/python", f"{sys.executable} -P")
        .replace("/run/shimpy-%i", "%t/shimpy-%i")
        .replace("%i", f"test-{os.getpid()}")
        .replace("OOMScoreAdjust=-500\n", "")
        # It is not installed everywhere where the tests run.
        .replace("[Service]\n", f"[Service]\nEnvironment=PYTHONPATH={ROOT}\n")
        for name, text in found
    }


@pytest.fixture(
    params=[
        pytest.param(each, marks=pytest.mark.skipif(bool(each.lacking()), reason=f"needs {each.lacking()}"))
        for each in (UserSystemd, FirstProcess)
    ]
)
def systemd(request: pytest.FixtureRequest) -> Iterator[Callable[[Mapping[str, str]], Systemd]]:
    """Starts a unit."""
    started: list[Systemd] = []

    def start(unit: Mapping[str, str]) -> Systemd:
        started.append(request.param(unit))
        return started[-1]

    yield start
    for manager in started:
        manager.close()


def socket_of(manager: Systemd) -> Path:
    return manager.runtime / f"shimpy-test-{os.getpid()}" / "shim.sock"


def shim_of(keeper: int) -> int:
    """Returns the shim of a keeper, 0 if there is none."""
    for child, state in children(keeper).items():
        if state != "Z" and b"--socket" in Path(f"/proc/{child}/cmdline").read_bytes():
            return child
    return 0


@asynccontextmanager
async def shell(
    socket: Path, bundle: Callable[..., str], new_id: Callable[[], str]
) -> AsyncIterator[tuple[shimpy.Container, shimpy.Terminal]]:
    """Gives a container, and in it a shell at a terminal that waits for a word."""
    async with (
        shimpy.connect(socket) as client,
        client.container(new_id(), bundle("sleep", "1000000")) as container,
        container.pty(["sh", "-c", "read word; echo got $word; exit 7"]) as terminal,
    ):
        yield container, terminal


async def said_to(terminal: shimpy.Terminal, typed: bytes) -> bytes:
    """Types something, and returns all that is shown to the end."""
    await terminal.send(typed)
    return b"".join([data async for data in terminal])


def assert_nothing_left_after_stop(manager: Systemd) -> None:
    socket = socket_of(manager)
    manager.do("stop")
    assert not socket.exists()
    assert not os.path.exists(JournalDirectory.of_socket(str(socket)).path)


@_NEEDS_STATUSES
async def test_a_shim_under_systemd_is_killed_and_restarted_and_loses_nothing(
    systemd: Callable[[Mapping[str, str]], Systemd], bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    manager = systemd({"shimpy@.service": files()["shimpy@.service"]})
    first = manager.next_main_pid(0)
    socket = socket_of(manager)
    async with shell(socket, bundle, new_id) as (container, terminal):
        ends = await container.spawn(["sh", "-c", "sleep 0.1; exit 5"])
        os.kill(first, signal.SIGKILL)
        assert await ends.wait() == 5
        second = manager.next_main_pid(first)
        manager.do("restart")
        manager.next_main_pid(second)
        assert b"got it" in await said_to(terminal, b"it\n")
        assert await terminal.wait() == 7
    assert_nothing_left_after_stop(manager)


async def test_a_shim_of_a_keeper_under_systemd_is_killed_and_reloaded_and_loses_nothing(
    systemd: Callable[[Mapping[str, str]], Systemd], bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    manager = systemd(files())
    keeper = manager.next_main_pid(0)
    socket = socket_of(manager)
    async with shell(socket, bundle, new_id) as (container, terminal):
        ends = await container.spawn(["sh", "-c", "sleep 0.1; exit 5"])
        first = shim_of(keeper)
        os.kill(first, signal.SIGKILL)
        assert await ends.wait() == 5
        second = shim_of(keeper)
        manager.do("reload")
        await eventually(lambda: shim_of(keeper) not in (0, first, second))
        assert b"got it" in await said_to(terminal, b"it\n")
        assert await terminal.wait() == 7
        assert manager.main_pid() == keeper
    assert_nothing_left_after_stop(manager)


async def test_a_terminal_goes_on_under_systemd_whatever_the_kernel_tells(
    systemd: Callable[[Mapping[str, str]], Systemd], bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    manager = systemd({"shimpy@.service": files()["shimpy@.service"]})
    first = manager.next_main_pid(0)
    async with shell(socket_of(manager), bundle, new_id) as (_, terminal):
        os.kill(first, signal.SIGKILL)
        manager.next_main_pid(first)
        assert b"got it" in await said_to(terminal, b"it\n")
