"""Readers of a FIFO that come late, leave and return; the process that writes it has it itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import resource
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shimpy.core.model import StdioPaths
from shimpy.core.stdio import ProcessIO, open_stdio
from shimpy.core.stdio.fifo import _FIRST_LOOK, _WAKEUPS, _WINDOW, Fifo as Keeper, StdioHub
from tests.support.fifos import Fifo
from tests.support.leaks import descriptors, eventually
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio

MakeFifo = Callable[[str], Fifo]


class Writer:
    """Stands for a container's process: it has the write end, and nobody else."""

    def __init__(self, io: ProcessIO) -> None:
        self.io = io
        self.fd = os.dup(io.fds[1])

    def write(self, data: bytes) -> None:
        assert os.write(self.fd, data) == len(data)

    def exit(self) -> None:
        os.close(self.fd)
        self.io.process_exited()


async def writer(hub: StdioHub, stdout: object) -> Writer:
    io = open_stdio(hub, StdioPaths(stdin="", stdout=str(stdout), stderr=""))
    process = Writer(io)
    await io.attach()
    return process


def keeper(hub: StdioHub) -> Keeper:
    (only,) = hub.fifos.values()
    return only


async def within(future: asyncio.Future[bytes], seconds: float = 5) -> bytes:
    return await asyncio.wait_for(future, seconds)


async def test_the_shim_copies_nothing(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    size = 200_000_000  # a tenth of a second would not do to copy it
    io = open_stdio(hub, StdioPaths(stdin="/dev/zero", stdout=str(out), stderr=""))
    process = await asyncio.create_subprocess_exec(
        "head", "-c", str(size), stdin=io.fds[0], stdout=io.fds[1], stderr=io.fds[2]
    )
    await io.attach()
    used = time.process_time()
    reader = await asyncio.create_subprocess_exec("wc", "-c", str(out), stdout=asyncio.subprocess.PIPE)
    printed, _ = await reader.communicate()
    assert await process.wait() == 0
    assert int(printed.split()[0]) == size
    assert time.process_time() - used < 0.1
    io.process_exited()
    io.close()


async def test_a_process_waits_for_a_reader_that_comes_late(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    os.set_blocking(process.fd, False)
    while True:
        try:
            process.write(bytes(4096))
        except BlockingIOError:
            break
    reader = out.read()
    await eventually(lambda: select.select([], [process.fd], [], 0)[1])
    process.exit()
    assert len(await within(reader)) == 65536
    process.io.close()


async def test_a_reader_that_dies_takes_nothing_with_it(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(b"one two ")
    assert await within(out.read_some(4)) in (b"one ", b"one two ")
    # Nobody reads now: no SIGPIPE, and what fits is kept.
    process.write(b"three")
    second = out.read()
    process.exit()
    assert (await within(second)).endswith(b"three")
    process.io.close()


@pytest.mark.parametrize("when", ["at once", "when the shim has settled"])
async def test_a_reader_that_comes_after_the_exit(hub: StdioHub, fifo: MakeFifo, when: str) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(b"the rest")
    process.exit()
    if when != "at once":
        await eventually(lambda: keeper(hub)._writer >= 0)
    assert await within(out.read()) == b"the rest"
    # And another, to which nothing is left.
    assert await within(out.read()) == b""
    process.io.close()


async def test_readers_after_the_exit_share_the_rest(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(b"0123456789")
    process.exit()

    def bit() -> bytes:
        fd = os.open(out, os.O_RDONLY)
        try:
            return os.read(fd, 4)
        finally:
            os.close(fd)

    assert [await asyncio.to_thread(bit) for _ in range(4)] == [b"0123", b"4567", b"89", b""]
    process.io.close()


async def test_a_reader_that_was_there_sees_eof_at_the_exit(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    reader = out.read()
    process = await writer(hub, out)
    process.write(b"all")
    process.exit()
    assert await within(reader) == b"all"
    process.io.close()


async def test_a_reader_that_does_not_block_sees_eof_too(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    stream = asyncio.StreamReader()
    file = open(os.open(out, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)  # noqa: SIM115
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), file)
    process.write(b"all")
    process.exit()
    assert await asyncio.wait_for(stream.read(), 5) == b"all"
    transport.close()
    process.io.close()


async def test_eof_waits_for_children_that_hold_the_output(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    child = os.dup(process.fd)
    reader = out.read()
    process.write(b"parent ")
    process.exit()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(reader), 0.1)
    os.write(child, b"child")
    os.close(child)
    assert await within(reader) == b"parent child"
    process.io.close()


async def test_two_processes_write_one_fifo(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    first, second = await writer(hub, out), await writer(hub, out)
    reader = out.read()
    first.write(b"first ")
    first.exit()
    first.io.close()
    second.write(b"second")
    assert len(hub.fifos) == 1
    second.exit()
    assert await within(reader) == b"first second"
    second.io.close()


@pytest.mark.parametrize("between", ["nothing", "a reader that left", "a reader that stays"])
async def test_one_process_after_another_writes_one_fifo(hub: StdioHub, fifo: MakeFifo, between: str) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(b"one ")
    process.exit()
    await eventually(lambda: keeper(hub)._writer >= 0)
    taken = b""
    staying = -1
    if between == "a reader that left":
        taken = await within(out.read())
    elif between == "a reader that stays":
        staying = os.open(out, os.O_RDONLY)
        await eventually(lambda: keeper(hub)._writer < 0)
    again = await writer(hub, out)
    process.io.close()
    again.write(b"two")
    again.exit()
    assert taken + await within(out.read()) == b"one two"
    if staying >= 0:
        os.close(staying)
    again.io.close()


async def test_close_ends_it_for_readers(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(b"lost")
    process.exit()
    await eventually(lambda: keeper(hub)._writer >= 0)
    process.io.close()
    process.io.close()
    fd = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(fd, 10) == b""
    os.close(fd)


async def test_a_second_reader_is_let_in_beside_the_first(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    first = os.open(out, os.O_RDONLY)
    process.exit()
    await eventually(lambda: keeper(hub)._timer is not None)
    assert await within(out.read()) == b""
    os.close(first)
    process.io.close()


async def test_close_lets_a_second_reader_in(
    hub: StdioHub, fifo: MakeFifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shimpy.core.stdio.fifo._FIRST_LOOK", 1000)
    out = fifo("out")
    process = await writer(hub, out)
    first = os.open(out, os.O_RDONLY)
    process.exit()
    await eventually(lambda: keeper(hub)._timer is not None)
    before = _in_open()
    second = out.read()
    # It hangs in open(2), where nobody sees it.
    await eventually(lambda: _in_open() - before)
    process.io.close()
    assert await within(second) == b""
    os.close(first)


def _in_open() -> set[str]:
    """Returns the threads of this process that wait for the other end of a FIFO."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        # Others may be ending.
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/wchan") as file:
            if file.read() == "wait_for_partner":
                found.add(task)
    return found


async def test_without_inotify_a_late_reader_waits_for_the_clock(
    hub: StdioHub, fifo: MakeFifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "watch_inode", lambda *_: None)
    out = fifo("out")
    process = await writer(hub, out)
    process.write(b"the rest")
    process.exit()
    await eventually(lambda: keeper(hub)._timer is not None)
    assert await within(out.read()) == b"the rest"
    assert await within(out.read()) == b""
    process.io.close()


async def test_inotify_that_cannot_be_had_is_told(
    hub: StdioHub, fifo: MakeFifo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("shimpy.core.stdio.watcher._Inotify", refuse)
    out = fifo("out")
    process = await writer(hub, out)
    process.write(b"the rest")
    process.exit()
    assert await within(out.read()) == b"the rest"
    assert "inotify unavailable ([Errno 24] Too many open files); polling the FIFO instead" in caplog.text
    process.io.close()


async def test_a_hang_up_that_cannot_be_watched_is_told(
    hub: StdioHub, fifo: MakeFifo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_fd: int, _events: int, _callback: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "watch", refuse)
    out = fifo("out")
    process = await writer(hub, out)
    reader = os.open(out, os.O_RDONLY)
    process.write(b"all")
    process.exit()
    assert [os.read(reader, 10), os.read(reader, 10)] == [b"all", b""]
    os.close(reader)
    assert "cannot watch FIFO for writer hang-up: [Errno 28]" in caplog.text
    process.io.close()


@pytest.fixture
def wakeups(hub: StdioHub, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time that a FIFO of the hub, or its timer, wakes the event loop."""
    woken: list[str] = []
    dispatch, tick = hub._dispatch, Keeper._tick

    def counted_dispatch() -> None:
        woken.append("watch")
        dispatch()

    def counted_tick(keeper: Keeper) -> None:
        woken.append("timer")
        tick(keeper)

    monkeypatch.setattr(hub, "_dispatch", counted_dispatch)
    monkeypatch.setattr(Keeper, "_tick", counted_tick)
    return woken


# What a process can do to its own output once it has closed it, each in a loop.
CHURN = {
    "reads": "os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))",
    "reads and writes": "os.close(os.open(path, os.O_RDWR))",
    "writes beside a reader": "os.close(os.open(path, os.O_WRONLY))",
}


@pytest.mark.parametrize("how", CHURN)
async def test_a_fifo_that_is_opened_in_a_loop_wakes_the_shim_seldom(
    hub: StdioHub, fifo: MakeFifo, wakeups: list[str], how: str
) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(b"the rest")
    process.exit()
    await eventually(lambda: keeper(hub)._writer >= 0)
    first = "r = os.open(path, os.O_RDONLY)" if how == "writes beside a reader" else ""
    times = 100_000
    code = f"import os\npath = {str(out)!r}\n{first}\nfor _ in range({times}): {CHURN[how]}"
    wakeups.clear()
    began = time.monotonic()
    churn = await asyncio.create_subprocess_exec(sys.executable, "-S", "-E", "-c", code)
    assert await churn.wait() == 0
    windows = (time.monotonic() - began) / _WINDOW + 1
    # One more than there may be ends the watching, and one of the timer the window. After each the
    # kernel may tell that inotify's old watch has ended.
    assert len(wakeups) <= windows * 2 * (_WAKEUPS + 2)
    # And a reader that comes now gets everything and its end.
    assert await within(out.read()) == b"the rest"
    process.io.close()


async def test_a_process_that_opens_its_output_again_is_kept_from_sigpipe(
    hub: StdioHub, fifo: MakeFifo
) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    reader = os.open(out, os.O_RDONLY)
    os.close(process.fd)
    await eventually(lambda: keeper(hub)._timer is not None)
    process.fd = os.open(out, os.O_WRONLY)
    os.close(reader)
    await eventually(lambda: keeper(hub)._timer is None)
    process.write(b"again")
    process.exit()
    assert await within(out.read()) == b"again"
    process.io.close()


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 8, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


async def test_nothing_is_lost_when_descriptors_run_out(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(b"the rest")
    with no_descriptors_left():
        # As close(2) does, but the number stays taken.
        os.dup2(0, process.fd, inheritable=False)
        process.io.process_exited()
        await eventually(lambda: keeper(hub)._pause > _FIRST_LOOK)
        assert keeper(hub)._reader >= 0
    os.close(process.fd)
    assert await within(out.read()) == b"the rest"
    process.io.close()


async def test_two_shims_that_keep_one_fifo_do_not_chase_each_other(
    hub: StdioHub, fifo: MakeFifo, wakeups: list[str]
) -> None:
    out = fifo("out")
    other_hub = StdioHub()
    process, other = await writer(hub, out), await writer(other_hub, out)
    process.write(b"one ")
    other.write(b"two")
    process.exit()
    other.exit()
    await eventually(lambda: keeper(hub)._timer is not None)
    wakeups.clear()
    began = time.monotonic()
    await asyncio.sleep(_WINDOW)
    windows = (time.monotonic() - began) / _WINDOW + 1
    # Of the other hub only the timer's are counted.
    assert len(wakeups) <= windows * 3 * (_WAKEUPS + 2)
    assert await within(out.read()) == b"one two"
    process.io.close()
    assert await within(out.read()) == b""
    other.io.close()
    other_hub.close()


@pytest.mark.parametrize("state", ["live", "live and full", "held", "reading"])
async def test_an_idle_fifo_costs_nothing(
    hub: StdioHub, fifo: MakeFifo, wakeups: list[str], state: str
) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(bytes(65536) if state == "live and full" else b"x")
    reader = -1
    if state == "reading":
        reader = os.open(out, os.O_RDONLY)
    if not state.startswith("live"):
        process.exit()
        await eventually(lambda: keeper(hub)._watch is not None)
    wakeups.clear()
    began = time.monotonic()
    await asyncio.sleep(0.5)
    # The timer goes on while a reader is there: after 0.02 s, 0.04 s, ..., then once a second. The
    # kernel tells each time that inotify's old watch has ended.
    assert len(wakeups) <= (2 * (6 + time.monotonic() - began) if state == "reading" else 0)
    if state.startswith("live"):
        process.exit()
    if reader >= 0:
        os.close(reader)
    process.io.close()


async def test_whatever_readers_do_around_the_exit_nothing_is_lost(hub: StdioHub, fifo: MakeFifo) -> None:
    """Readers come and go at random: each byte is read once, each reader sees EOF, none hangs."""
    choose = random.Random(1)
    out = fifo("out")
    loop = asyncio.get_running_loop()
    for _ in range(rounds(100, 5000)):
        data = choose.randbytes(choose.choice([0, 1, 100, 5000, 60_000, 200_000]))
        process = await writer(hub, out)
        exited = threading.Event()
        got: list[bytes] = []

        def write(process: Writer = process, data: bytes = data, exited: threading.Event = exited) -> None:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(process.fd, rest) :]
            os.close(process.fd)
            exited.set()

        def read(exited: threading.Event = exited, got: list[bytes] = got) -> None:
            while True:
                late = exited.is_set()
                with open(out, "rb", buffering=0) as file:
                    for _ in range(choose.choice([0, 1, 3, 1_000_000])):
                        bit = file.read(choose.choice([1, 4096, 65536]))
                        got.append(bit)
                        if not bit:
                            break
                if late and got and not got[-1]:
                    return

        writing = loop.run_in_executor(None, write)
        if len(data) <= 60_000 and choose.random() < 0.4:
            await writing
        reading = loop.run_in_executor(None, read)
        await asyncio.wait_for(writing, 10)
        process.io.process_exited()
        await asyncio.wait_for(reading, 10)
        assert b"".join(got) == data
        process.io.close()


async def test_a_process_that_is_deleted_at_once_needs_no_inotify(
    hub: StdioHub, fifo: MakeFifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end takes the kernel milliseconds, in which the loop stands still."""
    monkeypatch.setattr("shimpy.core.stdio.fifo._FIRST_LOOK", 1000.0)
    process = await writer(hub, fifo("out"))
    process.exit()
    await eventually(lambda: keeper(hub)._timer is not None)
    process.io.close()

    assert hub._inotify is None
