"""A tap: a copy of all that a process writes, wherever that goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.model import Policy, StdioPaths
from shimpy.core.reaper import Reaper
from shimpy.core.stdio import ProcessIO, StdioHub, open_stdio
from shimpy.core.stdio.logs import LogPrograms
from shimpy.core.stdio.uri import LogProgram
from tests.core.stdio.test_logs import run
from tests.support.fifos import Fifo
from tests.support.log_programs import COPY

pytestmark = pytest.mark.anyio

SOON = 30.0
PLAIN = Policy()


class Kept:
    """A tap that keeps what it gets; full when it is told so."""

    def __init__(self) -> None:
        self.outputs = {"stdout": b"", "stderr": b""}
        self.ends = 0
        self.is_full = False
        self._callbacks: list[Callable[[], object]] = []

    def on_room(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)

    def empty(self) -> None:
        self.is_full = False
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def write(self, stream: str, data: bytes) -> None:
        self.outputs[stream] += data

    def resized(self, columns: int, rows: int) -> None:
        raise AssertionError("there is no terminal")

    def end(self) -> None:
        self.ends += 1


@pytest.fixture
def tap() -> Kept:
    return Kept()


@pytest.fixture
def opened(hub: StdioHub, reaper: Reaper, tap: Kept) -> Callable[..., ProcessIO]:
    """Opens the stdio of an init with a tap."""

    def open_(stdout: str, stderr: str = "", policy: Policy = PLAIN) -> ProcessIO:
        logs = LogPrograms(reaper, "one", "k8s.io") if policy.log_uris else None
        return open_stdio(hub, StdioPaths("", stdout, stderr), policy=policy, logs=logs, tap=tap)

    return open_


BOTH = {"stdout": b"out\n", "stderr": b"err\n"}


async def test_of_fifos(opened: Callable[..., ProcessIO], fifo: Callable[[str], Fifo], tap: Kept) -> None:
    out, err = fifo("out"), fifo("err")
    readers = out.read(), err.read()
    io = opened(str(out), str(err))
    await run(io, "echo out; echo err >&2")
    io.close()

    assert [await asyncio.wait_for(reader, SOON) for reader in readers] == [b"out\n", b"err\n"]
    assert tap.outputs == BOTH
    assert tap.ends == 1


async def test_of_files(opened: Callable[..., ProcessIO], tmp_path: Path, tap: Kept) -> None:
    for name in ("out", "err"):
        (tmp_path / name).touch()
    io = opened(str(tmp_path / "out"), str(tmp_path / "err"))
    await run(io, "echo out; echo err >&2")
    io.close()

    assert (tmp_path / "out").read_text() == "out\n"
    assert tap.outputs == BOTH


async def test_of_output_that_is_thrown_away(opened: Callable[..., ProcessIO], tap: Kept) -> None:
    """Both outputs are /dev/null, and so one."""
    io = opened("")
    await run(io, "echo out; echo err >&2")
    io.close()

    assert tap.outputs == {"stdout": b"out\nerr\n", "stderr": b""}


async def test_of_what_a_log_program_reads(
    opened: Callable[..., ProcessIO], tmp_path: Path, program: Callable[..., LogProgram], tap: Kept
) -> None:
    io = opened(f"binary://{program(COPY).path}", policy=Policy(relay_output=True, log_uris=True))
    await run(io, "echo out; echo err >&2")
    await io.finish()
    io.close()

    assert [(tmp_path / name).read_text() for name in ("out", "err")] == ["out\n", "err\n"]
    assert tap.outputs == BOTH


async def test_one_that_is_full_holds_the_process_up(
    opened: Callable[..., ProcessIO], fifo: Callable[[str], Fifo], tap: Kept
) -> None:
    out = fifo("out")
    reader = out.read()
    io = opened(str(out))
    tap.is_full = True
    running = asyncio.ensure_future(run(io, "echo out"))
    await asyncio.wait([running], timeout=0.3)
    assert tap.outputs["stdout"] == b""
    tap.empty()
    await running
    io.close()

    assert await asyncio.wait_for(reader, SOON) == tap.outputs["stdout"] == b"out\n"
