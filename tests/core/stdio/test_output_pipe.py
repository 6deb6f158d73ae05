"""Output that is relayed: it ends at close whoever else writes, and nothing that a process wrote is lost."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import random
import resource
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.model import Policy, StdioPaths
from shimpy.core.stdio import ProcessIO, StdioHub, open_stdio
from shimpy.core.stdio.capacity import enlarge
from shimpy.core.stdio.output_pipe import _GATHER, OutputPipe
from shimpy.core.stdio.owner import Owner
from shimpy.core.stdio.processio import PlainIO
from shimpy.errors import ResourceExhaustedError
from tests.support.fifos import Fifo
from tests.support.leaks import descriptors, eventually, no_descriptor_left
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio

MakeFifo = Callable[[str], Fifo]

RELAYED = Policy(relay_output=True)
FIFO_SIZE = 65536

# Seconds: long enough for any machine, where the right answer comes at once.
SOON = 30.0


def opened(
    hub: StdioHub, stdout: object, stderr: object = "", *, is_exec: bool = True, owner: Owner | None = None
) -> ProcessIO:
    stdio = StdioPaths(stdout=str(stdout), stderr=str(stderr))
    return open_stdio(hub, stdio, policy=RELAYED, is_exec=is_exec, owner=owner)


class Writer:
    """Stands for a process: it has the write end that its `ProcessIO` lends, and nobody else."""

    def __init__(self, io: ProcessIO) -> None:
        self.io = io
        self.fd = os.dup(io.fds[1])

    def write(self, data: bytes) -> None:
        assert os.write(self.fd, data) == len(data)

    def exit(self) -> None:
        os.close(self.fd)
        self.io.process_exited()


async def writer(hub: StdioHub, stdout: object) -> Writer:
    process = Writer(opened(hub, stdout))
    await process.io.attach()
    return process


def relay(io: ProcessIO) -> OutputPipe:
    assert isinstance(io, PlainIO)
    (only,) = io._relays
    return only


async def soon(future: asyncio.Future[bytes]) -> bytes:
    return await asyncio.wait_for(future, SOON)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[OutputPipe]:
    """Grows by one each time that a relay is woken."""
    woken: list[OutputPipe] = []
    move = OutputPipe._move

    def counted(pipe: OutputPipe) -> None:
        woken.append(pipe)
        move(pipe)

    monkeypatch.setattr(OutputPipe, "_move", counted)
    return woken


@pytest.fixture
def small_fifos(monkeypatch: pytest.MonkeyPatch) -> None:
    """FIFOs take FIFO_SIZE, of which less has to be written than of what the relay makes of them."""

    def enlarge_pipe(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
            enlarge(fd)

    monkeypatch.setattr("shimpy.core.stdio.output_pipe.enlarge", enlarge_pipe)


# -- What passes

WRITE = """
import random, sys
data = random.Random(1).randbytes(1_000_003)
for _ in range(int(sys.argv[1])):
    sys.stdout.buffer.write(data)
"""


async def test_two_hundred_megabytes_arrive_as_they_were_written(hub: StdioHub, fifo: MakeFifo) -> None:
    out, times = fifo("out"), 200
    io = opened(hub, out)
    reader = await asyncio.create_subprocess_exec("sha256sum", out, stdout=asyncio.subprocess.PIPE)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITE, str(times), stdout=io.fds[1])
    await io.attach()
    printed, _ = await reader.communicate()
    await process.wait()
    io.close()

    expected = hashlib.sha256()
    data = random.Random(1).randbytes(1_000_003)
    for _ in range(times):
        expected.update(data)
    assert printed.split()[0].decode() == expected.hexdigest()


async def test_the_shim_copies_nothing_of_a_flood(hub: StdioHub, fifo: MakeFifo) -> None:
    out, size = fifo("out"), 200_000_000
    io = opened(hub, out)
    used = time.process_time()
    process = await asyncio.create_subprocess_exec("head", "-c", str(size), "/dev/zero", stdout=io.fds[1])
    await io.attach()
    reader = await asyncio.create_subprocess_exec("wc", "-c", out, stdout=asyncio.subprocess.PIPE)
    printed, _ = await reader.communicate()
    await process.wait()
    io.close()
    assert int(printed.split()[0]) == size
    # A cat(1) of as much takes a tenth of a second of what this asks for.
    assert time.process_time() - used < 1


@pytest.mark.parametrize("size", [1, 100, 4095, 4096, 4097, 10_000, 70_000])
async def test_writes_of_any_size_arrive(hub: StdioHub, fifo: MakeFifo, size: int) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    reader = out.read()
    expected = b""
    # Less than the pipe holds: a write that waited would keep the relay from making room.
    for number in range(10):
        piece = random.Random(number).randbytes(size)
        process.write(piece)
        expected += piece
        await asyncio.sleep(0)
    process.exit()
    assert await soon(reader) == expected
    process.io.close()


async def test_both_outputs_in_one_fifo_keep_their_order(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, out, out)
    assert io.fds[1] == io.fds[2]
    reader = out.read()
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        "for i in 1 2 3; do echo out $i; echo err $i >&2; done",
        stdout=io.fds[1],
        stderr=io.fds[2],
    )
    await io.attach()
    await process.wait()
    assert (await soon(reader)).decode() == "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3))
    io.close()


async def test_two_outputs_are_kept_apart(hub: StdioHub, fifo: MakeFifo) -> None:
    out, err = fifo("out"), fifo("err")
    io = opened(hub, out, err)
    readers = out.read(), err.read()
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "echo out; echo err >&2", stdout=io.fds[1], stderr=io.fds[2]
    )
    await io.attach()
    await process.wait()
    assert [await soon(reader) for reader in readers] == [b"out\n", b"err\n"]
    io.close()


async def test_many_small_writes_are_taken_though_nobody_reads(hub: StdioHub, fifo: MakeFifo) -> None:
    """As many as a FIFO takes of a process that writes to it itself."""
    out = fifo("out")
    process = await writer(hub, out)
    for number in range(1000):
        process.write(b"%4d\n" % number)
        await asyncio.sleep(0)
    process.exit()
    await asyncio.wait_for(relay(process.io).drained.wait(), SOON)
    reader = out.read()
    assert await soon(reader) == b"".join(b"%4d\n" % number for number in range(1000))
    process.io.close()


async def test_what_another_writer_left_no_room_for_is_kept(
    hub: StdioHub, fifo: MakeFifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    refusals = [errno.EAGAIN]
    write = os.write

    def full_once(fd: int, data: bytes) -> int:
        if refusals and fd == relay(process.io)._sink:
            raise BlockingIOError(refusals.pop(), "full")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full_once)
    process.write(b"one two")
    assert await soon(out.read_some(7)) == b"one two"
    assert refusals == []
    process.exit()
    process.io.close()


async def test_an_unprivileged_user_may_have_too_many_large_pipes(
    hub: StdioHub, fifo: MakeFifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _command: int, _argument: int = 0) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    out = fifo("out")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", refuse)
        process = await writer(hub, out)
    process.write(b"hello")
    process.exit()
    assert await soon(out.read()) == b"hello"
    process.io.close()


async def test_who_writes_without_end_is_looked_at_now_and_then(
    hub: StdioHub, fifo: MakeFifo, moves: list[OutputPipe]
) -> None:
    """Each look costs as much as moving a hundred pages."""
    out = fifo("out")
    process = await writer(hub, out)
    began = time.monotonic()
    for _ in range(1000):
        process.write(b"x")
        await asyncio.sleep(0)
    looks = len(moves)
    took = time.monotonic() - began
    process.exit()
    assert await soon(out.read()) == b"x" * 1000
    # The first come at once.
    assert looks <= 3 + took / _GATHER
    process.io.close()


async def test_an_end_does_not_wait_for_the_next_look(
    hub: StdioHub, fifo: MakeFifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shimpy.core.stdio.output_pipe._GATHER", 1000.0)
    out = fifo("out")
    process = await writer(hub, out)
    for _ in range(3):
        process.write(b"x")
        await asyncio.sleep(0)
    await eventually(lambda: relay(process.io)._gathering is not None)
    process.write(b"y")
    process.exit()
    assert relay(process.io).drained.is_set()
    assert await soon(out.read()) == b"xxxy"
    process.io.close()


# -- The end


async def test_the_end_comes_with_the_last_writer(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    child = os.dup(process.fd)
    reader = out.read()
    process.write(b"one ")
    process.exit()
    await process.io.drain(SOON)
    os.write(child, b"two")
    os.close(child)
    assert await soon(reader) == b"one two"
    process.io.close()


async def test_the_end_comes_at_close_though_a_child_has_the_output_open(
    hub: StdioHub, fifo: MakeFifo
) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    child = os.dup(process.fd)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    process.write(b"hello")
    process.exit()
    await process.io.drain(SOON)
    process.io.close()
    process.io.close()
    assert [os.read(reader, 100), os.read(reader, 100)] == [b"hello", b""]
    os.close(reader)
    os.close(child)


async def test_a_child_that_writes_after_the_close_gets_sigpipe(hub: StdioHub, fifo: MakeFifo) -> None:
    io = opened(hub, fifo("out"))
    child = await asyncio.create_subprocess_exec(
        "sh", "-c", "read -r _; echo more", stdin=asyncio.subprocess.PIPE, stdout=io.fds[1]
    )
    await io.attach()
    io.process_exited()
    io.close()
    assert child.returncode is None
    await child.communicate(b"go\n")
    assert child.returncode == -signal.SIGPIPE


@pytest.mark.usefixtures("small_fifos")
async def test_an_end_is_seen_though_the_fifo_is_full(
    hub: StdioHub, fifo: MakeFifo, moves: list[OutputPipe]
) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    for _ in range(FIFO_SIZE // 4096):
        process.write(bytes(4096))
        await asyncio.sleep(0)
    process.exit()
    ended = relay(process.io)
    await eventually(lambda: ended._pipe < 0)
    await asyncio.sleep(0.1)
    assert len(moves) <= FIFO_SIZE // 4096 + 4
    assert len(await soon(out.read())) == FIFO_SIZE
    process.io.close()


async def test_a_fifo_that_the_shim_gave_up_ends_the_output(fifo: MakeFifo) -> None:
    out = fifo("out")
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    pipe = OutputPipe(os.open(out, os.O_WRONLY | os.O_NONBLOCK))
    pipe.start()
    os.close(reader)
    os.write(pipe.child, b"x")
    await asyncio.wait_for(pipe.drained.wait(), SOON)
    with pytest.raises(BrokenPipeError):
        os.write(pipe.child, b"x")
    os.close(pipe.child)


# -- Readers


async def test_a_reader_that_comes_late_gets_everything(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    data = random.Random(2).randbytes(300_000)
    process.write(data)
    process.exit()
    await asyncio.sleep(0.05)
    assert await soon(out.read()) == data
    process.io.close()


async def test_a_reader_that_dies_costs_no_byte(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    data = random.Random(3).randbytes(300_000)
    process.write(data)
    first = await soon(out.read_some(70_001))
    process.write(data)
    process.exit()
    assert first + await soon(out.read()) == data + data
    process.io.close()


@pytest.mark.usefixtures("small_fifos")
async def test_a_reader_that_does_not_read_is_waited_for_in_peace(
    hub: StdioHub, fifo: MakeFifo, moves: list[OutputPipe]
) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(bytes(300_000))
    await eventually(lambda: relay(process.io)._waits_for_room)
    woken = len(moves)
    process.write(bytes(300_000))
    await asyncio.sleep(0.2)
    assert len(moves) == woken
    process.exit()
    process.io.close()


@pytest.mark.usefixtures("small_fifos")
async def test_once_a_full_fifo_is_read_the_relay_rests(
    hub: StdioHub, fifo: MakeFifo, moves: list[OutputPipe]
) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    process.write(bytes(300_000))
    await eventually(lambda: relay(process.io)._waits_for_room)
    assert len(await soon(out.read_some(300_000))) == 300_000
    await eventually(lambda: not relay(process.io)._waits_for_room)
    woken = len(moves)
    await asyncio.sleep(0.2)
    assert len(moves) <= woken + 1
    process.exit()
    process.io.close()


@pytest.mark.parametrize("written", [b"", b"a line\n"])
async def test_a_process_that_is_silent_costs_nothing(
    hub: StdioHub, fifo: MakeFifo, moves: list[OutputPipe], written: bytes
) -> None:
    out = fifo("out")
    process = await writer(hub, out)
    if written:
        process.write(written)
    await asyncio.sleep(0.2)
    assert len(moves) <= len(written)
    process.exit()
    process.io.close()


# -- Draining


@pytest.mark.usefixtures("small_fifos")
async def test_a_drain_waits_for_what_the_process_wrote_and_for_nothing_else(
    hub: StdioHub, fifo: MakeFifo
) -> None:
    """A child goes on writing, faster than the reader reads."""
    out = fifo("out")
    process = await writer(hub, out)
    child = os.dup(process.fd)
    process.write(bytes(400_000))
    process.exit()
    os.write(child, bytes(400_000))
    drained = asyncio.ensure_future(process.io.drain(SOON))
    fd = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    taken = 0
    while taken < 400_000 - FIFO_SIZE - 1:
        assert not drained.done()
        if select.select([fd], [], [], 0)[0]:
            taken += len(os.read(fd, min(4096, 400_000 - FIFO_SIZE - 1 - taken)))
        await asyncio.sleep(0)
    assert not relay(process.io).drained.is_set()
    while not drained.done():
        if select.select([fd], [], [], 0)[0]:
            taken += len(os.read(fd, 4096))
        await asyncio.sleep(0)
    assert relay(process.io).drained.is_set()
    assert taken < 600_000
    os.close(fd)
    os.close(child)
    process.io.close()


@pytest.mark.usefixtures("small_fifos")
async def test_a_drain_does_not_wait_longer_than_it_may(hub: StdioHub, fifo: MakeFifo) -> None:
    process = await writer(hub, fifo("out"))
    process.write(bytes(300_000))
    process.exit()
    await process.io.drain(0.05)
    assert not relay(process.io).drained.is_set()
    process.io.close()


async def test_an_exit_before_the_runtime_is_done(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    process = Writer(opened(hub, out))
    process.write(b"gone")
    process.exit()
    assert not relay(process.io).drained.is_set()
    await process.io.attach()
    await process.io.drain(SOON)
    assert relay(process.io).drained.is_set()
    assert await soon(out.read()) == b"gone"
    process.io.close()


async def test_a_process_that_wrote_nothing_is_drained(hub: StdioHub, fifo: MakeFifo) -> None:
    process = await writer(hub, fifo("out"))
    child = os.dup(process.fd)
    process.exit()
    assert relay(process.io).drained.is_set()
    os.close(child)
    process.io.close()


# -- What is relayed


async def test_an_init_has_its_fifo_itself(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, out, is_exec=False)
    assert os.fstat(io.fds[1]).st_ino == os.stat(out).st_ino
    io.close()


async def test_a_device_is_given_to_the_process_itself(hub: StdioHub) -> None:
    io = opened(hub, "/dev/full")
    assert stat.S_ISCHR(os.fstat(io.fds[1]).st_mode)
    io.close()


@pytest.mark.parametrize("is_exec", [False, True])
async def test_a_file_is_appended_to_and_cannot_be_truncated(
    hub: StdioHub, tmp_path: Path, is_exec: bool
) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    io = opened(hub, file, file, is_exec=is_exec)
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "echo one; echo two >/dev/stdout; echo three >&2", stdout=io.fds[1], stderr=io.fds[2]
    )
    await io.attach()
    await process.wait()
    io.process_exited()
    await io.drain(SOON)
    io.close()
    assert file.read_text() == "before\none\ntwo\nthree\n"


async def test_what_comes_just_after_a_look_does_not_make_a_file_full(
    hub: StdioHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event loop can wait for a file."""
    file = tmp_path / "log"
    file.touch()
    process = await writer(hub, file)
    read = os.read

    def nothing_yet(fd: int, size: int) -> bytes:
        monkeypatch.setattr(os, "read", read)
        process.write(b"two\n")
        raise BlockingIOError(errno.EAGAIN, "there is nothing")

    monkeypatch.setattr(os, "read", nothing_yet)
    process.write(b"one\n")
    await eventually(lambda: file.read_text() == "one\ntwo\n")
    process.exit()
    process.io.close()


async def test_what_a_file_does_not_take_is_dropped_until_it_takes_more(
    hub: StdioHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "log"
    file.touch()
    process = await writer(hub, file)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        process.write(b"one two")
        await eventually(lambda: caplog.messages)
        process.write(b"three")
        await eventually(lambda: relay(process.io)._in_pipe() == 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    process.write(b" four")
    child = os.dup(process.fd)
    process.exit()
    await process.io.drain(SOON)
    assert relay(process.io).drained.is_set()
    process.io.close()
    os.close(child)
    assert file.read_bytes() == b"one  four"
    assert len(caplog.messages) == 1
    assert "File too large" in caplog.text


async def test_the_pipe_is_given_to_the_owner_and_the_fifo_is_not(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, out, owner=Owner(100_000, 100_001))
    pipe = os.fstat(io.fds[1])
    io.close()
    assert (pipe.st_uid, pipe.st_gid) == (100_000, 100_001)
    assert os.stat(out).st_uid == os.geteuid()


async def test_the_process_blocks_and_nobody_else_inherits(hub: StdioHub, fifo: MakeFifo) -> None:
    io = opened(hub, fifo("out"))
    assert os.get_blocking(io.fds[1])
    assert not os.get_inheritable(io.fds[1])
    io.close()


async def test_without_descriptors_nothing_is_left(hub: StdioHub, fifo: MakeFifo) -> None:
    out, err = fifo("out"), fifo("err")
    opened(hub, out, err).close()
    before = descriptors()
    refusals = 0
    for left in range(12):
        with no_descriptor_left(but=left):
            try:
                opened(hub, out, err).close()
            except ResourceExhaustedError:
                refusals += 1
        assert descriptors().items() <= before.items()
    assert refusals > 5


async def test_descriptors_stay_flat(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    opened(hub, out).close()
    before = descriptors()
    for _ in range(rounds(100, 2000)):
        process = await writer(hub, out)
        process.write(b"x")
        process.exit()
        process.io.close()
    assert descriptors().items() <= before.items()
