"""Terminals: how the master comes, and what is relayed between it and the streams."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shimpy.core.model import StdioPaths
from shimpy.core.stdio import ProcessIO, StdioHub, open_stdio
from shimpy.core.stdio.input_relay import InputRelay
from shimpy.core.stdio.relay import OutputRelay
from shimpy.core.stdio.terminal import TerminalIO
from shimpy.errors import FailedPreconditionError, InternalError
from tests.support.containers import remove
from tests.support.fifos import Fifo
from tests.support.leaks import descriptors, eventually
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio

MakeFifo = Callable[[str], Fifo]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A temporary directory in which nothing is left, far longer than what the address of a socket holds."""
    temporary = tmp_path / ("x" * 100) / ("y" * 100)
    temporary.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    assert list(temporary.iterdir()) == []


def opened(hub: StdioHub, stdin: object = "", stdout: object = "") -> ProcessIO:
    return open_stdio(hub, StdioPaths(terminal=True, stdin=str(stdin), stdout=str(stdout), stderr=""))


def connect(io: ProcessIO, *fds: int, data: bytes = b"/dev/ptmx") -> None:
    """Sends file descriptors to the console socket, as a runtime does."""
    assert io.console_socket is not None
    assert len(io.console_socket) < 108
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(io.console_socket)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        sock.sendmsg([data], [rights] if fds else [])


class Process:
    """Stands for a container's process: a session leader on a terminal of its own."""

    def __init__(self, io: ProcessIO, args: Sequence[str], *, raw: bool = False) -> None:
        self.io = io
        master, slave = os.openpty()
        if raw:
            tty.setraw(slave)
        self.name = os.ttyname(slave)
        self.popen = subprocess.Popen(
            # A session of its own, with this as its controlling terminal.
            ["setsid", "--ctty", *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        connect(io, master)
        os.close(master)
        os.close(slave)

    async def exit(self, within: float = 30) -> int:
        """Waits for its end, and tells."""
        await eventually(lambda: self.popen.poll() is not None, within=within)
        self.io.process_exited()
        return self.popen.wait()

    async def kill(self) -> None:
        self.popen.kill()
        await self.exit()


async def run(io: ProcessIO, *args: str, raw: bool = False) -> Process:
    process = Process(io, args, raw=raw)
    await io.attach()
    return process


def output(io: ProcessIO) -> OutputRelay:
    assert isinstance(io, TerminalIO)
    assert io._output is not None
    return io._output


def is_held_back(io: ProcessIO) -> bool:
    """Returns whether there is input that the terminal did not take."""
    assert isinstance(io, TerminalIO)
    assert io._input is not None
    return bool(io._input._pending)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time that one of a terminal's relays is woken."""
    woken: list[str] = []
    for relay in (InputRelay, OutputRelay):

        def counted(self: Any, turn: Callable[[Any], None] = relay._turn, name: str = relay.__name__) -> None:
            woken.append(name)
            turn(self)

        monkeypatch.setattr(relay, "_turn", counted)
    return woken


async def at_rest(turns: list[str]) -> None:
    """Fails if the relays go on being woken though nothing happens any more."""
    async with asyncio.timeout(10):
        before = -1
        while len(turns) != before:
            before = len(turns)
            await asyncio.sleep(0.2)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", code]


# -- The console socket


async def test_a_runtime_that_connects_no_console(hub: StdioHub) -> None:
    io = opened(hub)
    began = time.monotonic()
    with pytest.raises(InternalError, match="connected no console"):
        await io.attach()
    assert 0.5 < time.monotonic() - began < 20
    io.close()


async def test_a_runtime_that_connects_and_says_nothing(hub: StdioHub) -> None:
    io = opened(hub)
    assert io.console_socket is not None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(io.console_socket)
        with pytest.raises(InternalError, match="no console"):
            await io.attach()
    io.close()


async def test_a_runtime_that_sends_something_else(hub: StdioHub) -> None:
    said = {0: "0 file descriptors", 1: "not a terminal", 2: "2 file descriptors", 40: "file descriptors"}
    for count, words in said.items():
        io = opened(hub)
        before = descriptors()
        connect(io, *[0] * count)
        with pytest.raises(InternalError, match=words):
            await io.attach()
        assert descriptors().items() <= before.items()
        io.close()


async def test_a_slave_is_not_a_master(hub: StdioHub) -> None:
    master, slave = os.openpty()
    io = opened(hub)
    connect(io, slave)
    with pytest.raises(InternalError, match="not a terminal"):
        await io.attach()
    io.close()
    os.close(master)
    os.close(slave)


async def test_a_console_from_another_user_is_not_taken(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, "", out)
    assert io.console_socket is not None
    directory = Path(io.console_socket).parent
    directory.chmod(0o711)
    (directory / "console.sock").chmod(0o666)
    stranger = f"""
import os, socket
master, slave = os.openpty()
os.chdir({str(directory)!r})
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.connect("console.sock")
socket.send_fds(sock, [b"/dev/ptmx"], [master])
"""
    assert await asyncio.to_thread(subprocess.call, python(stranger)) == 0
    process = await run(io, "echo", "hello")
    await process.exit()
    await io.drain(2)
    assert await asyncio.wait_for(out.read(), 5) == b"hello\r\n"
    io.close()


async def test_cancelling_attach_leaves_nothing(hub: StdioHub) -> None:
    for delay in (0, 0.001, 0.01):
        io = opened(hub)
        task = asyncio.create_task(io.attach())
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        io.close()


async def test_nobody_else_may_reach_the_console_socket(hub: StdioHub) -> None:
    io = opened(hub)
    assert io.console_socket is not None
    directory = Path(io.console_socket).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in directory.iterdir()] == ["console.sock"]
    assert [*Path(tempfile.gettempdir()).iterdir()] == []
    io.close()
    assert not directory.exists()


async def test_the_runtime_gets_dev_null(hub: StdioHub) -> None:
    io = opened(hub)
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in io.fds] == ["/dev/null"] * 3
    io.close()


async def test_runc_finds_the_console(
    hub: StdioHub, fifo: MakeFifo, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    out = fifo("out")
    script = (
        "stty -echo; stty size; exec 0<&- 1>&- 2>&-; sleep 0.2; "
        "echo hi >/dev/console; read x </dev/console; echo $x >/dev/console"
    )
    path = bundle("sh", "-c", script, terminal=True)
    container = new_id()
    source = fifo("in")
    io = opened(hub, source, out)
    io.resize(132, 43)
    assert io.console_socket is not None
    process = await asyncio.create_subprocess_exec(
        *("runc", "create", "--bundle", path, "--console-socket", io.console_socket, container),
        stdin=io.fds[0],
        stdout=io.fds[1],
        stderr=io.fds[2],
    )
    assert await process.wait() == 0
    await io.attach()
    process = await asyncio.create_subprocess_exec("runc", "start", container)
    assert await process.wait() == 0
    assert await asyncio.wait_for(out.read_some(8), 20) == b"43 132\r\n"
    reader = out.read()
    await source.write(b"typed\n")
    await eventually(lambda: _runc_status(container) == "stopped")
    io.process_exited()
    await io.drain(2)
    assert await asyncio.wait_for(reader, 5) == b"hi\r\ntyped\r\n"
    io.close()
    await asyncio.to_thread(remove, container)


def _runc_status(container: str) -> str:
    shown = subprocess.run(["runc", "state", container], capture_output=True, text=True, check=True).stdout
    return shown.partition('"status": "')[2].partition('"')[0]


# -- Output


@pytest.mark.parametrize("background", [False, True])
async def test_everything_arrives(hub: StdioHub, fifo: MakeFifo, background: bool) -> None:
    out = fifo("out")
    io = opened(hub, "", out)
    reader = out.read()
    code = "sleep 600 & seq 1 60000" if background else "seq 1 60000"
    process = await run(io, "sh", "-c", code)
    group = process.popen.pid
    assert await process.exit() == 0
    await io.drain(2)
    if background:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    shown = await asyncio.wait_for(reader, 10)
    assert shown.decode().split() == [str(number) for number in range(1, 60001)]
    io.close()


async def test_output_that_nobody_reads_is_thrown_away(hub: StdioHub) -> None:
    io = opened(hub)
    process = await run(io, "seq", "1", "200000")
    assert await process.exit() == 0
    await io.drain(2)
    io.close()


async def test_output_to_a_file(hub: StdioHub, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    io = opened(hub, "", log)
    process = await run(io, "seq", "1", "60000")
    await process.exit()
    await io.drain(2)
    assert log.read_text().split() == ["before", *(str(number) for number in range(1, 60001))]
    io.close()


async def test_output_to_a_device(hub: StdioHub) -> None:
    leader, follower = os.openpty()
    tty.setraw(follower)
    io = opened(hub, "", os.ttyname(follower))
    process = await run(io, "echo", "hello")
    await process.exit()
    await io.drain(2)
    assert _exactly(leader, 7) == b"hello\r\n"
    io.close()
    os.close(leader)
    os.close(follower)


async def test_output_that_fails_does_not_stop_the_process(
    hub: StdioHub, caplog: pytest.LogCaptureFixture
) -> None:
    io = opened(hub, "", "/dev/full")
    process = await run(io, "seq", "1", "60000")
    assert await process.exit() == 0
    await io.drain(2)
    io.close()
    assert "No space left on device" in caplog.text


async def test_a_process_may_close_its_terminal_and_open_it_again(hub: StdioHub, fifo: MakeFifo) -> None:
    out, source, closed, go = fifo("out"), fifo("in"), fifo("closed"), fifo("go")
    io = opened(hub, source, out)
    script = "exec 0<&- 1>&- 2>&-; echo >$0; read x <$1; read x </dev/tty; echo hi $x >/dev/tty"
    process = await run(io, "sh", "-c", script, str(closed), str(go))
    assert await closed.read() == b"\n"
    # Nobody has the terminal open now.
    await source.write(b"typed\n")
    assert await asyncio.wait_for(out.read_some(7), 5) == b"typed\r\n"
    reader = out.read()
    await go.write(b"\n")
    assert await process.exit() == 0
    await io.drain(2)
    assert await asyncio.wait_for(reader, 5) == b"hi typed\r\n"
    io.close()


async def test_a_terminal_that_all_have_left_wakes_nobody(hub: StdioHub, turns: list[str]) -> None:
    io = opened(hub)
    process = await run(io, "true")
    await process.exit()
    await eventually(lambda: output(io)._sink.fd < 0)
    turns.clear()

    def churn() -> None:
        for _ in range(1000):
            os.close(os.open(process.name, os.O_RDWR | os.O_NOCTTY))

    await asyncio.to_thread(churn)
    assert turns == []
    io.close()


async def test_a_process_that_nobody_reads_waits(hub: StdioHub, fifo: MakeFifo, turns: list[str]) -> None:
    out = fifo("out")
    io = opened(hub, "", out)
    process = await run(io, *python("import os; b = b'x' * 1000000; os.write(1, b)"), raw=True)
    await eventually(lambda: output(io)._waiting)
    await at_rest(turns)
    assert process.popen.poll() is None
    assert len(await asyncio.to_thread(_read, out, 400_000)) == 400_000
    # That reader has left; the next one gets what is left.
    assert process.popen.poll() is None
    reader = out.read()
    assert await process.exit() == 0
    await io.drain(2)
    assert len(await asyncio.wait_for(reader, 5)) == 600_000
    io.close()


def _read(path: Fifo, size: int) -> bytes:
    """Reads exactly that many bytes and leaves the rest in the FIFO."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return _exactly(fd, size)
    finally:
        os.close(fd)


def _exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        assert more, f"the end after {data!r}"
        data += more
    return data


async def test_a_reader_that_comes_after_the_exit(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, "", out)
    process = await run(io, "seq", "1", "20000")
    # More than the FIFO holds: the rest waits in the terminal.
    await eventually(lambda: output(io)._waiting)
    reader = out.read()
    await process.exit()
    assert (await asyncio.wait_for(reader, 5)).count(b"\n") == 20000
    assert await asyncio.wait_for(out.read(), 5) == b""
    io.close()


async def test_the_rest_of_a_short_output_waits_for_a_reader_until_delete(
    hub: StdioHub, fifo: MakeFifo
) -> None:
    out = fifo("out")
    io = opened(hub, "", out)
    process = await run(io, "echo", "bye")
    await process.exit()
    began = time.monotonic()
    await io.drain(2)
    assert time.monotonic() - began < 1.8
    assert await asyncio.wait_for(out.read(), 5) == b"bye\r\n"
    io.close()


async def test_drain_gives_up(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, "", out)
    process = await run(io, *python("import os; os.write(1, b'x' * 75000); os._exit(0)"), raw=True)
    await process.exit()
    began = time.monotonic()
    await io.drain(2)
    assert 1.5 < time.monotonic() - began < 20
    io.close()


async def test_children_that_hold_the_terminal_are_relayed_until_they_are_gone(
    hub: StdioHub, fifo: MakeFifo
) -> None:
    out, go = fifo("out"), fifo("go")
    io = opened(hub, "", out)
    reader = out.read()
    process = await run(io, "sh", "-c", f"trap '' HUP; {{ read x <{go}; echo child; }} & echo parent")
    await process.exit()
    began = time.monotonic()
    await io.drain(2)
    assert time.monotonic() - began < 1.8
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(reader), 0.1)
    await go.write(b"\n")
    assert await asyncio.wait_for(reader, 5) == b"parent\r\nchild\r\n"
    io.close()


async def test_close_hangs_up(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, "", out)
    process = await run(io, "sh", "-c", "echo up; exec sleep 600")
    assert await asyncio.to_thread(_read, out, 4) == b"up\r\n"
    io.close()
    io.close()
    assert await process.exit() == -signal.SIGHUP


async def test_an_exit_before_the_runtime_is_done(hub: StdioHub, fifo: MakeFifo) -> None:
    out, source = fifo("out"), fifo("in")
    io = opened(hub, source, out)
    process = Process(io, ["echo", "gone"])
    await process.exit()
    await io.attach()
    await io.drain(2)
    assert await asyncio.wait_for(out.read(), 5) == b"gone\r\n"
    io.close()


async def test_a_flood_does_not_hold_up_others(hub: StdioHub) -> None:
    ios = [opened(hub) for _ in range(3)]
    processes = [await run(io, "yes") for io in ios]
    waits = []
    for _ in range(100):
        began = time.thread_time()
        await asyncio.sleep(0)
        waits.append(time.thread_time() - began)
    assert sorted(waits)[90] < 0.05
    for process in processes:
        await process.kill()
        process.io.close()


# -- Input


async def test_input_reaches_the_process(hub: StdioHub, fifo: MakeFifo) -> None:
    out, source = fifo("out"), fifo("in")
    io = opened(hub, source, out)
    process = await run(io, "sh", "-c", "stty -echo; echo ready; read a; read b; echo $b $a")
    assert await asyncio.to_thread(_read, out, 7) == b"ready\r\n"
    # A writer that leaves is not the end.
    await source.write(b"one\n")
    reader = out.read()
    await source.write(b"two\n")
    await process.exit()
    await io.drain(2)
    assert await asyncio.wait_for(reader, 5) == b"two one\r\n"
    io.close()


@pytest.mark.parametrize("kind", ["fifo", "file"])
async def test_large_input_waits_for_a_slow_process(
    hub: StdioHub, fifo: MakeFifo, tmp_path: Path, turns: list[str], kind: str
) -> None:
    data = random.Random(1).randbytes(rounds(1, 10) * 1_000_000)
    (tmp_path / "copy").touch()
    source, go = fifo("in"), fifo("go")
    if kind == "file":
        (tmp_path / "file").write_bytes(data)
    io = opened(hub, source if kind == "fifo" else tmp_path / "file")
    code = f"""
import os
open({str(go)!r}).read()
with open({str(tmp_path / "copy")!r}, "wb") as copy:
    while copy.tell() < {len(data)}:
        copy.write(os.read(0, 65536))
"""
    process = await run(io, *python(code), raw=True)
    written = source.write(data) if kind == "fifo" else None
    await eventually(lambda: is_held_back(io))
    await at_rest(turns)
    await go.write(b"")
    assert await process.exit() == 0
    if written is not None:
        await written
    assert (tmp_path / "copy").read_bytes() == data
    io.close()


async def test_input_from_a_device(hub: StdioHub, fifo: MakeFifo) -> None:
    leader, follower = os.openpty()
    tty.setraw(follower)
    out = fifo("out")
    io = opened(hub, os.ttyname(follower), out)
    reader = out.read()
    process = await run(io, "sh", "-c", "read x; echo got $x")
    os.write(leader, b"typed\n")
    await process.exit()
    await io.drain(2)
    assert await asyncio.wait_for(reader, 5) == b"typed\r\ngot typed\r\n"
    io.close()
    os.close(leader)
    os.close(follower)


async def test_endless_input_is_held_back(hub: StdioHub, turns: list[str]) -> None:
    io = opened(hub, "/dev/zero")
    process = await run(io, "sleep", "600", raw=True)
    await eventually(lambda: is_held_back(io))
    await at_rest(turns)
    await process.kill()
    io.close()


async def test_input_that_waits_for_a_process_without_its_terminal_costs_nothing(
    hub: StdioHub, fifo: MakeFifo, turns: list[str]
) -> None:
    """A master that nobody has a slave of is ready at all times (poll(2), POLLHUP)."""
    closed = fifo("closed")
    reading = closed.read()
    io = opened(hub, "/dev/zero")
    code = f"exec 0<&- 1>&- 2>&-; echo >{closed}; exec sleep 600"
    process = await run(io, "sh", "-c", code, raw=True)
    assert await reading == b"\n"
    await eventually(lambda: is_held_back(io))
    await at_rest(turns)
    await process.kill()
    io.close()


async def test_a_writer_learns_that_the_process_exited(hub: StdioHub, fifo: MakeFifo) -> None:
    source = fifo("in")
    io = opened(hub, source)
    process = await run(io, "sleep", "600", raw=True)
    written = source.write(bytes(1_000_000))
    await process.kill()
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(written, 5)
    io.close()


# -- Size


async def test_the_process_finds_its_size(hub: StdioHub, fifo: MakeFifo) -> None:
    for number in range(rounds(10, 200)):
        out, start = fifo(f"out{number}"), fifo(f"start{number}")
        io = opened(hub, "", out)
        io.resize(100 + number, 40)
        process = Process(io, ["sh", "-c", f"read x <{start}; stty size"])
        reader = out.read()
        await io.attach()
        await start.write(b"\n")
        await process.exit()
        await io.drain(2)
        assert await asyncio.wait_for(reader, 5) == b"40 %d\r\n" % (100 + number)
        io.close()


async def test_a_new_size_is_signalled(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, "", out)
    code = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
os.write(1, b"ready\\n")
signal.sigwait([signal.SIGWINCH])
os.write(1, b"%d %d\\n" % os.get_terminal_size(0))
"""
    process = await run(io, *python(code))
    assert await asyncio.to_thread(_read, out, 7) == b"ready\r\n"
    reader = out.read()
    io.resize(65535, 1)
    await process.exit()
    assert await asyncio.wait_for(reader, 5) == b"65535 1\r\n"
    with pytest.raises(FailedPreconditionError, match="exited"):
        io.resize(80, 25)
    io.close()


# -- What is left


async def test_descriptors_terminals_and_tasks_stay_flat(hub: StdioHub, fifo: MakeFifo) -> None:
    out, source = fifo("out"), fifo("in")

    async def one_round() -> tuple[dict[int, str], set[asyncio.Task[object]]]:
        io = opened(hub, source, out)
        reader = out.read()
        process = await run(io, "echo", "hello")
        await process.exit()
        await io.drain(2)
        assert await asyncio.wait_for(reader, 5) == b"hello\r\n"
        io.close()
        # A terminal is there as long as somebody has its master open.
        return descriptors(), asyncio.all_tasks()

    fds, tasks = await one_round()
    for _ in range(rounds(20, 200)):
        fds_now, tasks_now = await one_round()
        assert fds_now.items() <= fds.items()
        assert tasks_now <= tasks
