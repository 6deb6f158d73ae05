"""The tee of a process's output: all of it arrives, and a bad tee harms its process as little as can be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import shimpy
from shimpy.core.hooks import tap
from shimpy.core.hooks.hook_set import HookSet
from tests.support import leaks
from tests.support.machine import RUNTIME

pytestmark = pytest.mark.anyio


class Keeping(shimpy.Tee):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.outputs = {"stdout": b"", "stderr": b""}
        self.sizes: list[tuple[int, int]] = []
        self.has_ended = False

    async def output(self, stream: str, data: bytes, time: float) -> None:
        self.outputs[stream] += data

    async def resized(self, columns: int, rows: int, time: float) -> None:
        self.sizes.append((columns, rows))

    async def ended(self) -> None:
        self.has_ended = True


class Listening(shimpy.Hooks):
    """Gives every exec the tee that it was made with."""

    def __init__(self, tee: shimpy.Tee, time_limit: float) -> None:
        self._tee = tee
        self.time_limit = time_limit

    async def tee(self, process: shimpy.HookProcess) -> Any:
        return self._tee if process.is_exec else None


@pytest.fixture
def sandbox(bundle: Callable[..., str], new_id: Callable[[], str]) -> Callable[..., Any]:
    """Makes a running container whose execs have a tee."""

    @asynccontextmanager
    async def make(tee: Any, time_limit: float = 60) -> AsyncIterator[shimpy.Container]:
        async with (
            shimpy.in_process(runtime=RUNTIME, hooks=Listening(tee, time_limit)) as shim,
            shim.container(new_id(), bundle("sh", "-c", "sleep 1000000 & wait")) as container,
        ):
            yield container

    return make


async def test_of_both_outputs(sandbox: Callable[..., Any]) -> None:
    tee = Keeping()
    async with sandbox(tee) as container:
        result = await container.run(["sh", "-c", "echo out; echo err >&2; yes | head -c 3000000"])

    assert result.stdout == b"out\n" + b"y\n" * 1_500_000
    assert tee.outputs == {"stdout": result.stdout, "stderr": b"err\n"}
    assert tee.has_ended


async def test_what_comes_at_once_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 10 ms and 64 KiB, and in the order in which it came."""
    pieces: list[tuple[str, bytes, float]] = []

    class Pieces(Keeping):
        async def output(self, stream: str, data: bytes, time: float) -> None:
            pieces.append((stream, data, time))

        async def resized(self, columns: int, rows: int, time: float) -> None:
            pieces.append(("size", b"", time))

    times = iter([100.0, 100.009, 100.011, 100.012, 100.013, 100.014, 100.015, 99.0, 99.0, 99.0])
    monkeypatch.setattr(tap, "time", SimpleNamespace(time=lambda: next(times)))
    hook_set = HookSet([shimpy.Hooks()])
    copy = tap.TeeTap(hook_set, [(hook_set.runners[0], Pieces())], "a process")
    copy.write("stdout", b"a")
    copy.write("stdout", b"b")
    copy.write("stdout", b"c")
    copy.write("stderr", b"d")
    copy.write("stdout", b"e")
    copy.write("stdout", b"f" * 65535)
    copy.write("stdout", b"g")
    copy.write("stdout", b"h")
    copy.resized(80, 24)
    copy.write("stdout", b"i")
    copy.end()
    await hook_set.aclose()

    assert pieces == [
        ("stdout", b"ab", 100.0),
        ("stdout", b"c", 100.011),
        ("stderr", b"d", 100.012),
        ("stdout", b"e" + b"f" * 65535, 100.013),
        ("stdout", b"g", 100.015),
        ("stdout", b"h", 99.0),
        ("size", b"", 99.0),
        ("stdout", b"i", 99.0),
    ]


async def test_of_a_terminal(sandbox: Callable[..., Any]) -> None:
    tee = Keeping()
    async with (
        sandbox(tee) as container,
        container.pty(["sh", "-c", "read line; stty size"], width=70, height=20) as pty,
    ):
        await pty.write(b"x\n")
        seen = b"".join([data async for data in pty])

    assert seen.endswith(b"20 70\r\n")
    assert tee.outputs == {"stdout": seen, "stderr": b""}
    assert tee.sizes == [(70, 20)]
    assert tee.has_ended


async def test_output_that_nobody_wants(sandbox: Callable[..., Any]) -> None:
    """It goes to /dev/null, and to the tee all the same."""
    tee = Keeping()
    async with sandbox(tee) as container:
        pid = await container._client.exec(["echo", "hello"])
        await leaks.eventually(lambda: tee.outputs["stdout"] == b"hello\n")
        assert await container._client.delete(pid) == 0


class Hanging(Keeping):
    async def output(self, stream: str, data: bytes, time: float) -> None:
        await asyncio.sleep(1000)


class Failing(Keeping):
    async def output(self, stream: str, data: bytes, time: float) -> None:
        raise ValueError("of its own")


@pytest.mark.parametrize("tee", [Hanging(), Failing()], ids=["hangs", "fails"])
async def test_a_bad_tee_is_told_no_more(
    sandbox: Callable[..., Any], tee: Keeping, caplog: pytest.LogCaptureFixture
) -> None:
    """It delays its process by one time limit at most, and loses it nothing."""
    async with sandbox(tee, time_limit=1) as container:
        result = await container.run(["sh", "-c", "yes | head -c 5000000"], timeout=50)

    assert (len(result.stdout), result.timed_out) == (5_000_000, False)
    assert "it is told no more" in caplog.text
    assert tee.has_ended


async def test_a_process_waits_for_a_slow_tee(
    sandbox: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than so much is kept for it."""
    monkeypatch.setattr(tap, "_ENOUGH", 1 << 16)
    monkeypatch.setattr(tap, "_ROOM", 1 << 17)
    waiting = []

    class Slow(Keeping):
        async def output(self, stream: str, data: bytes, time: float) -> None:
            await super().output(stream, data, time)
            waiting.append(len(data))
            await asyncio.sleep(0.001)

    tee = Slow()
    async with sandbox(tee) as container:
        result = await container.run(["sh", "-c", "yes | head -c 2000000"])

    assert tee.outputs["stdout"] == result.stdout == b"y\n" * 1_000_000


async def test_what_is_not_a_tee_refuses_the_exec(sandbox: Callable[..., Any]) -> None:
    async with sandbox(42) as container:
        with pytest.raises(shimpy.InternalError, match="returned 42, which is neither a Tee nor None"):
            await container.run(["true"])
