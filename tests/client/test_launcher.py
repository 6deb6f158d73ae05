"""Shims as child processes: started, waited for, ended, and what becomes of their containers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import shimpy
from shimpy.core.journal import JournalDirectory
from tests.support import containers, leaks
from tests.support.clock import leap
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio


def _children() -> set[int]:
    return set(leaks.children())


async def test_shim_answers_within_the_block_and_is_gone_after_it() -> None:
    before = _children()
    async with shimpy.launch() as client:
        assert await client.state() == shimpy.ContainerState("", "", 0, ())
        assert len(_children() - before) == 1
    assert _children() <= before


async def test_socket_is_where_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "my.sock"
    async with shimpy.launch(path):
        assert path.is_socket()
        async with shimpy.connect(path) as client:
            await client.state()
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"socket": "/no/such/directory/shim.sock"}, "/no/such/directory"),
        ({"runtime": "no-such-runtime"}, "no-such-runtime"),
        ({"log_level": "loud"}, "loud"),
    ],
)
async def test_shim_that_does_not_start_says_why(options: dict[str, str], said: str, tmp_path: Path) -> None:
    children, descriptors = _children(), leaks.descriptors()
    with pytest.raises(shimpy.UnavailableError, match=said) as caught:
        async with shimpy.launch(**options):  # type: ignore[arg-type]
            pass
    assert "\n" not in str(caught.value)
    assert _children() <= children
    assert leaks.opened_since(descriptors) == []


async def test_shim_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unheard(_socket: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("shimpy.client.shim_process._wait_ready", unheard)
    before = _children()
    with pytest.raises(shimpy.UnavailableError, match="0 seconds"):
        async with shimpy.launch(timeout=0):
            pass
    assert _children() <= before


async def test_socket_of_a_live_shim_is_not_taken(tmp_path: Path) -> None:
    async with shimpy.launch(tmp_path / "shim.sock") as first:
        with pytest.raises(shimpy.UnavailableError):
            async with shimpy.launch(tmp_path / "shim.sock"):
                pass
        await first.state()


async def test_container_is_deleted_with_its_shim(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    container_id = new_id()
    async with shimpy.launch() as client:
        await client.create(container_id, bundle("sleep", "1000000"))
        await client.start()
    assert containers.left(container_id) == []


async def test_container_is_left_running_if_asked(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    container_id = new_id()
    async with shimpy.launch(leave_running=True) as client:
        pid = await client.create(container_id, bundle("sleep", "1000000"))
        await client.start()
    assert leaks.alive(pid)
    subprocess.run(["runc", "delete", "--force", container_id], check=True)


async def test_container_of_a_shim_that_was_killed_is_deleted_too(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    before = _children()
    container_id = new_id()
    with pytest.raises(shimpy.UnavailableError):  # noqa: PT012 - the end of the block raises it
        async with shimpy.launch() as client, client.container(container_id, bundle("sleep", "1000000")):
            (shim,) = _children() - before
            os.kill(shim, signal.SIGKILL)
            await client.state()
    assert containers.left(container_id) == []
    assert containers.cgroups(container_id) == []
    assert _children() <= before


@pytest.fixture
async def stuck() -> AsyncIterator[tuple[asyncio.Task[None], int]]:
    """A block that has come to its end, and the pid of its shim, which is stopped and has got its SIGTERM."""
    before = _children()
    ready, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        # Then there is no call to be made at the end, which the shim would not answer.
        async with shimpy.launch(leave_running=True):
            ready.set()
            await leave.wait()

    holding = asyncio.ensure_future(hold())
    await ready.wait()
    (shim,) = _children() - before
    os.kill(shim, signal.SIGSTOP)
    await leaks.eventually(lambda: leaks.children()[shim] == "T")
    leave.set()
    await leaks.eventually(lambda: leaks.pending(shim, signal.SIGTERM))
    yield holding, shim
    if shim in _children():
        os.kill(shim, signal.SIGKILL)


async def test_shim_that_does_not_end_is_killed_5_s_later(stuck: tuple[asyncio.Task[None], int]) -> None:
    holding, shim = stuck
    leap(5)
    async with asyncio.timeout(20):
        await holding
    assert shim not in _children()


async def test_shim_that_does_not_end_is_killed_although_its_block_is_cancelled(
    stuck: tuple[asyncio.Task[None], int],
) -> None:
    holding, shim = stuck
    for _ in range(2):
        holding.cancel()
        await asyncio.sleep(0)
    leap(5)
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await holding
    assert shim not in _children()


async def test_what_the_shim_logs_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "shimpy.shim"):
        async with shimpy.launch(log_level="info"):
            pass
    assert "serving on" in caplog.text


async def test_cancelled_at_random_moments_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def hold() -> None:
        async with shimpy.launch():
            await asyncio.Event().wait()

    children, descriptors = _children(), leaks.descriptors()
    for number in range(rounds(5, 100)):
        holding = asyncio.ensure_future(hold())
        await asyncio.sleep(0.03 * (number % 8))
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
    assert _children() <= children
    assert leaks.opened_since(descriptors) == []
    assert list(tmp_path.iterdir()) == []


async def test_long_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / ("x" * 150)
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    async with shimpy.launch() as client:
        await client.state()


async def test_several_at_once() -> None:
    async def one() -> None:
        async with shimpy.launch() as client:
            await client.state()

    await asyncio.gather(*(one() for _ in range(4)))


def _grandchildren() -> list[int]:
    return [pid for child in leaks.children() for pid in leaks.children(child)]


async def test_supervised_shim_is_started_again_and_goes_with_the_block(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    before, others = _children(), _grandchildren()
    async with (
        shimpy.launch(supervise=True) as client,
        client.container(new_id(), bundle("sleep", "1000000")) as container,
    ):
        [shim] = [pid for pid in _grandchildren() if pid not in {*others, container.pid}]
        options = Path(f"/proc/{shim}/cmdline").read_text().split("\0")
        [socket] = [each.partition("=")[2] for each in options if each.startswith("--socket=")]
        os.kill(shim, signal.SIGKILL)
        assert (await container.run(["echo", "it"])).stdout == b"it\n"
        assert (await client.state()).id == container.id
    assert _children() <= before
    assert not os.path.exists(JournalDirectory.of_socket(socket).path)
