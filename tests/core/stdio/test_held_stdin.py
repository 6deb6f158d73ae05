"""A stdin that the shim holds open: its writers come and go, and it ends when it is let go of."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import select
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.model import Policy, StdioPaths
from shimpy.core.stdio import ProcessIO, StdioHub, open_stdio
from shimpy.core.stdio.fifo import poll
from shimpy.core.stdio.relay import OutputRelay
from shimpy.core.stdio.terminal import TerminalIO
from tests.core.stdio.test_terminal import Process, run as run_on_terminal
from tests.support.fifos import Fifo
from tests.support.leaks import eventually

pytestmark = pytest.mark.anyio

MakeFifo = Callable[[str], Fifo]

HELD = Policy(hold_stdin=True)

# Seconds: long enough for any machine, where the right answer comes at once.
SOON = 30.0


def opened(hub: StdioHub, stdin: object, stdout: object = "", *, policy: Policy = HELD) -> ProcessIO:
    return open_stdio(hub, StdioPaths(stdin=str(stdin), stdout=str(stdout)), policy=policy)


def terminal(hub: StdioHub, stdin: object, stdout: object = "", *, policy: Policy = HELD) -> ProcessIO:
    stdio = StdioPaths(stdin=str(stdin), stdout=str(stdout), terminal=True)
    return open_stdio(hub, stdio, policy=policy)


async def run(io: ProcessIO, *args: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(*args, stdin=io.fds[0], stdout=io.fds[1])
    await io.attach()
    return process


async def soon(future: asyncio.Future[bytes]) -> bytes:
    return await asyncio.wait_for(future, SOON)


# -- Without a terminal


async def test_writers_come_and_go(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    io = opened(hub, source, out)
    process = await run(io, "cat")
    for piece in (b"one ", b"two "):
        reader = out.read_some(len(piece))
        await source.write(piece)
        assert await soon(reader) == piece
    last = out.read()
    await source.write(b"three")
    io.close_stdin()
    assert await soon(last) == b"three"
    assert await asyncio.wait_for(process.wait(), SOON) == 0
    io.close()


async def test_a_process_whose_writer_left_waits_for_the_next(hub: StdioHub, fifo: MakeFifo) -> None:
    source = fifo("in")
    io = opened(hub, source)
    process = await run(io, "cat")
    await source.write(b"")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.1)
    io.close_stdin()
    io.close_stdin()
    assert await asyncio.wait_for(process.wait(), SOON) == 0
    io.close()


async def test_a_writer_that_is_there_may_go_on_after_the_close(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    io = opened(hub, source, out)
    process = await run(io, "cat")
    reader = out.read()
    fd = os.open(source, os.O_WRONLY)
    io.close_stdin()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.1)
    os.write(fd, b"the rest")
    os.close(fd)
    assert await soon(reader) == b"the rest"
    await process.wait()
    io.close()


async def test_without_any_writer_the_close_is_the_end(hub: StdioHub, fifo: MakeFifo) -> None:
    io = opened(hub, fifo("in"))
    process = await run(io, "cat")
    io.close_stdin()
    assert await asyncio.wait_for(process.wait(), SOON) == 0
    io.close()


async def test_a_close_before_the_start_counts(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    io = opened(hub, source, out)
    await source.write(b"all")
    io.close_stdin()
    reader = out.read()
    process = await run(io, "cat")
    assert await soon(reader) == b"all"
    assert await asyncio.wait_for(process.wait(), SOON) == 0
    io.close()


async def test_writers_learn_that_the_process_exited(hub: StdioHub, fifo: MakeFifo) -> None:
    source = fifo("in")
    io = opened(hub, source)
    process = await run(io, "true")
    await process.wait()
    io.process_exited()
    with pytest.raises(OSError) as caught:
        os.open(source, os.O_WRONLY | os.O_NONBLOCK)
    assert caught.value.errno == errno.ENXIO
    io.close()


async def test_only_the_policy_holds(hub: StdioHub, fifo: MakeFifo) -> None:
    source = fifo("in")
    io = opened(hub, source, policy=Policy())
    process = await run(io, "cat")
    io.close_stdin()
    await source.write(b"")
    assert await asyncio.wait_for(process.wait(), SOON) == 0
    io.close()


@pytest.mark.parametrize("with_terminal", [False, True])
async def test_what_is_not_a_fifo_has_nothing_to_close(
    hub: StdioHub, tmp_path: Path, with_terminal: bool
) -> None:
    (tmp_path / "file").write_text("x\n")
    for stdin in ("", tmp_path / "file"):
        io = (terminal if with_terminal else opened)(hub, stdin)
        io.close_stdin()
        io.close()


# -- On a terminal

UNTIL_HANG_UP = 'trap "exit 7" HUP; echo ready; while :; do sleep 0.05; done'


def relay(io: ProcessIO) -> OutputRelay:
    assert isinstance(io, TerminalIO)
    assert io._output is not None
    return io._output


async def test_the_end_of_stdin_hangs_a_terminal_up(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    io = terminal(hub, source, out)
    reader = out.read()
    process = await run_on_terminal(io, "sh", "-c", UNTIL_HANG_UP)
    await eventually(lambda: bytes(relay(io)._buffer[:5]) == b"ready")
    fd = os.open(source, os.O_WRONLY)
    io.close_stdin()
    await asyncio.sleep(0.1)
    assert process.popen.poll() is None
    os.close(fd)
    assert await process.exit() == 7
    assert await soon(reader) == b"ready\r\n"
    io.close()


async def test_a_client_that_leaves_a_held_terminal_may_come_back(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    io = terminal(hub, source, out)
    reader = out.read()
    process = await run_on_terminal(io, "sh", "-c", "stty -echo; read -r a; read -r b; echo $a $b")
    await source.write(b"one\n")
    await source.write(b"two\n")
    assert await process.exit() == 0
    assert (await soon(reader)).endswith(b"one two\r\n")
    io.close()


def move_to_the_end(relay: OutputRelay) -> None:
    """Has a relay hold what it has where it is when the relay has read as much at once as it can."""
    rest = bytes(relay._buffer[relay._begin : relay._end])
    relay._begin, relay._end = len(relay._buffer) - len(rest), len(relay._buffer)
    relay._buffer[relay._begin :] = rest


@pytest.mark.parametrize("late", [False, True])
async def test_what_was_shown_before_a_hang_up_is_passed_on(
    hub: StdioHub, fifo: MakeFifo, tmp_path: Path, late: bool
) -> None:
    """Though nobody reads it yet, and the FIFO takes no more."""
    source, out = fifo("in"), fifo("out")
    io = terminal(hub, source, out)
    shown = tmp_path / "shown"
    script = f'trap "exit 7" HUP; head -c 70000 /dev/zero; touch {shown}; while :; do sleep 0.05; done'
    process = await run_on_terminal(io, "sh", "-c", script, raw=True)
    await eventually(lambda: shown.exists() and relay(io)._waiting)
    if late:
        move_to_the_end(relay(io))
    io.close_stdin()
    assert await process.exit() == 7
    assert not relay(io).drained.is_set()
    reader = out.read()
    await io.drain(SOON)
    assert await soon(reader) == bytes(70_000)
    io.close()


async def test_a_terminal_without_a_stdin_is_not_hung_up(hub: StdioHub, fifo: MakeFifo) -> None:
    io = terminal(hub, "", fifo("out"))
    process = await run_on_terminal(io, "sh", "-c", UNTIL_HANG_UP)
    io.close_stdin()
    await asyncio.sleep(0.1)
    assert process.popen.poll() is None
    await process.kill()
    io.close()


async def test_a_size_after_the_hang_up_changes_nothing(hub: StdioHub, fifo: MakeFifo) -> None:
    io = terminal(hub, fifo("in"), fifo("out"))
    process = await run_on_terminal(io, "sh", "-c", UNTIL_HANG_UP)
    io.close_stdin()
    await eventually(relay(io).drained.is_set)
    io.resize(80, 25)
    await process.exit()
    io.close()


async def test_a_terminal_is_held_whatever_the_policy(hub: StdioHub, fifo: MakeFifo) -> None:
    source = fifo("in")
    io = terminal(hub, source, fifo("out"), policy=Policy())
    process = await run_on_terminal(io, "sh", "-c", UNTIL_HANG_UP)
    await eventually(lambda: bytes(relay(io)._buffer[:5]) == b"ready")
    await source.write(b"")
    await asyncio.sleep(0.1)
    assert process.popen.poll() is None
    io.close_stdin()
    assert await process.exit() == 7
    io.close()


async def test_nothing_waits_for_the_cycle_collector(hub: StdioHub, fifo: MakeFifo) -> None:
    io = terminal(hub, fifo("in"), fifo("out"))
    process = await run_on_terminal(io, "sleep", "1000")
    await process.kill()
    io.close()
    kept = weakref.ref(io)
    gc.disable()
    try:
        del io, process
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("ends_at_exit", [False, True])
async def test_with_the_policy_a_terminals_output_ends_with_its_process(
    hub: StdioHub, fifo: MakeFifo, ends_at_exit: bool
) -> None:
    out = fifo("out")
    io = terminal(hub, "", out, policy=Policy(relay_output=ends_at_exit))
    process = Process(io, ["true"])
    other = os.open(process.name, os.O_RDWR | os.O_NOCTTY)
    await io.attach()
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    await process.exit()
    await io.drain(SOON)
    if ends_at_exit:
        await eventually(lambda: poll(reader) & select.POLLHUP)
    else:
        await asyncio.sleep(0.1)
        assert not poll(reader) & select.POLLHUP
    io.close()
    assert poll(reader) & select.POLLHUP
    os.close(reader)
    os.close(other)
