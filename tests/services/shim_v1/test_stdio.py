"""What processes without a terminal read and write: FIFOs, files, and who is at the other end."""

from __future__ import annotations

import array
import asyncio
import fcntl
import hashlib
import os
import signal
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shimpy.api import User
from tests.support.events import record
from tests.support.fifos import Fifo
from tests.support.kinds import RUNNING
from tests.support.leaks import cpu_time, descriptors, eventually, opened_since
from tests.support.lives import KILLED, Life, lives
from tests.support.rounds import rounds
from tests.support.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

Prepare = Callable[..., Life]
MakeFifo = Callable[[str], Fifo]
SLEEP = ("sleep", "1000")
MEGABYTE = 1 << 20


async def running(live: Prepare, *args: str, **fields: Any) -> Life:
    life = live(*(args or SLEEP))
    await life.create(**fields)
    await life.start()
    return life


def count(path: Fifo) -> int:
    """Reads to the end, in a thread of its own, and returns how much there was."""
    with open(path, "rb", buffering=0) as file:
        return sum(iter(lambda: len(file.read(MEGABYTE)), 0))


# -- output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_stdout_and_stderr_are_kept_apart(live: Prepare, fifo: MakeFifo, whose: str) -> None:
    out, err = fifo("out"), fifo("err")
    reading = out.read(), err.read()
    program = ("sh", "-c", "echo to out; echo to err >&2")
    paths = {"stdout": str(out), "stderr": str(err)}
    if whose == "init":
        life = await running(live, *program, **paths)
        pid = life.pid
    else:
        life = await running(live)
        pid = await life.exec(*program, **paths)
    # EOF comes with the end of the process, not with its Delete.
    assert [await each for each in reading] == [b"to out\n", b"to err\n"]
    assert await life.exit_of(pid) == 0
    assert await life.delete(pid) == 0


async def test_both_outputs_on_one_path(live: Prepare, fifo: MakeFifo, tmp_path: Path) -> None:
    """Nothing overtakes: a FIFO and a file hold what was written in the order in which it was."""
    life = await running(live)
    program = ("sh", "-c", "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done")
    expected = "".join(f"o{i}\ne{i}\n" for i in range(1, 6))
    both = fifo("both")
    reading = both.read()
    pid = await life.exec(*program, stdout=str(both), stderr=str(both))
    assert await reading == expected.encode()
    await life.delete(pid)
    file = tmp_path / "file"
    file.write_text("kept\n")
    (tmp_path / "link").symlink_to("file")
    ended = await life.run(*program, stdout=str(file), stderr=str(tmp_path / "link"))
    assert ended.status == 0
    assert file.read_text() == "kept\n" + expected


async def test_files_are_appended_to(live: Prepare, tmp_path: Path) -> None:
    life = await running(live)
    file = tmp_path / "file"
    file.write_text("first\n")
    for number in range(3):
        await life.run("echo", str(number), stdout=str(file), stderr="")
    assert file.read_text() == "first\n0\n1\n2\n"


async def test_character_devices_and_nothing(live: Prepare) -> None:
    life = await running(live)
    for path in ("", "/dev/null"):
        ended = await life.run("sh", "-c", "wc -c; echo gone", stdin=path, stdout=path, stderr=path)
        assert ended.status == 0
    assert (await life.run("head", "-c", "3", stdin="/dev/zero")).stdout == "\0\0\0"


async def test_stdin_from_a_file(live: Prepare, tmp_path: Path) -> None:
    life = await running(live)
    (tmp_path / "input").write_text("from a file\n")
    assert (await life.run("cat", stdin=str(tmp_path / "input"))).stdout == "from a file\n"


async def test_output_at_the_speed_of_the_pipe(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str], fifo: MakeFifo, tmp_path: Path
) -> None:
    """The shim copies none of it, so it has next to no CPU time of it either."""
    size = rounds(20, 200) * MEGABYTE
    stub = server.stub()
    async with record(stub) as recorder, lives(stub, recorder, bundle, new_id, tmp_path) as live:
        life = await running(live)
        output = fifo("output")
        before = cpu_time(server.pid)
        reading = asyncio.ensure_future(asyncio.to_thread(count, output))
        pid = await life.exec("head", "-c", str(size), "/dev/zero", stdout=str(output))
        assert await reading == size
        assert await life.exit_of(pid) == 0
        assert cpu_time(server.pid) - before < 0.2
        await life.delete(pid)


async def test_every_line_arrives(live: Prepare, fifo: MakeFifo, tmp_path: Path) -> None:
    """On stdout and stderr at once, the same by hash as what was written."""
    lines = rounds(20_000, 1_000_000)
    life = await running(live)
    expected = {
        "out": hashlib.sha256(b"".join(b"%d\n" % number for number in range(1, lines + 1))),
        "err": hashlib.sha256(b"".join(b"%d\n" % number for number in range(2, lines + 2))),
    }
    fifos = {name: fifo(name) for name in expected}
    reading = {name: one.read() for name, one in fifos.items()}
    script = f"seq 1 {lines} & seq 2 {lines + 1} >&2; wait"
    pid = await life.exec("sh", "-c", script, stdout=str(fifos["out"]), stderr=str(fifos["err"]))
    for name, digest in expected.items():
        assert hashlib.sha256(await reading[name]).digest() == digest.digest(), name
    assert await life.exit_of(pid) == 0
    assert await life.delete(pid) == 0


# -- readers that come late, die, and come back --------------------------------------------------


@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_a_reader_that_comes_late(live: Prepare, fifo: MakeFifo, whose: str) -> None:
    """The process runs on, as far as the FIFO holds what it says, and nothing of that is lost."""
    output, done = fifo("output"), fifo("done")
    program = ("sh", "-c", "echo early; echo done >&2; exec sleep 1000")
    told = done.read_some(5)
    paths = {"stdout": str(output), "stderr": str(done)}
    if whose == "init":
        life = await running(live, *program, **paths)
        pid = life.pid
    else:
        life = await running(live)
        pid = await life.exec(*program, **paths)
    assert await told == b"done\n"
    assert await output.read_some(6) == b"early\n"
    # Open before the Delete, after which nobody is there to open it with.
    reader = os.open(output, os.O_RDONLY | os.O_NONBLOCK)
    assert await life.delete(pid) == KILLED
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("size", [1, 60_000])
async def test_a_reader_that_comes_after_the_exit(live: Prepare, fifo: MakeFifo, size: int) -> None:
    """Neither its open(2) nor its read(2) waits, also the second time: the rest, then EOF."""
    life = await running(live)
    output = fifo("output")
    pid = await life.exec("head", "-c", str(size), "/dev/zero", stdout=str(output))
    assert await life.exit_of(pid) == 0
    async with asyncio.timeout(15):
        assert await output.read() == bytes(size)
        assert await output.read() == b""
        assert await output.read() == b""
    assert await life.delete(pid) == 0


async def test_a_reader_that_takes_a_part_after_the_exit(live: Prepare, fifo: MakeFifo) -> None:
    life = await running(live)
    output = fifo("output")
    pid = await life.exec("sh", "-c", "seq 1 1000", stdout=str(output))
    assert await life.exit_of(pid) == 0
    expected = b"".join(b"%d\n" % number for number in range(1, 1001))
    async with asyncio.timeout(15):
        assert await output.read_some(100) == expected[:100]
        assert await output.read() == expected[100:]
    assert await life.delete(pid) == 0


async def test_a_reader_that_dies_and_comes_back(live: Prepare, fifo: MakeFifo) -> None:
    """No SIGPIPE, no loss: the next goes on where the first stopped."""
    life = await running(live)
    output, orders = fifo("output"), fifo("orders")
    script = "while read -r line; do echo $line; done"
    first = output.read_some(2)
    pid = await life.exec("sh", "-c", script, stdin=str(orders), stdout=str(output))
    writer = await asyncio.to_thread(os.open, orders, os.O_WRONLY)
    os.write(writer, b"1\n")
    assert await first == b"1\n"
    # Nobody reads now.
    for number in range(2, 10):
        os.write(writer, b"%d\n" % number)
    await eventually(lambda: _unread(output) == 16)
    assert await output.read_some(4) == b"2\n3\n"
    assert (await life.states())[pid] is RUNNING
    assert await output.read_some(12) == b"4\n5\n6\n7\n8\n9\n"
    os.close(writer)
    assert await life.exit_of(pid) == 0
    assert await life.delete(pid) == 0


def _unread(output: Fifo) -> int:
    """How many bytes wait in a FIFO (pipe(7))."""
    number = array.array("i", [0])
    descriptor = os.open(output, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, number)
    finally:
        os.close(descriptor)
    return number[0]


async def test_a_process_waits_while_nobody_reads(live: Prepare, fifo: MakeFifo) -> None:
    """As on any full pipe; and the shim does not wait with it."""
    size = 300_000
    life = await running(live)
    output = fifo("output")
    pid = await life.exec("head", "-c", str(size), "/dev/zero", stdout=str(output))
    await eventually(lambda: _unread(output) == 65536)
    assert (await life.run("echo", "other")).stdout == "other\n"
    assert (await life.states())[pid] is RUNNING
    assert await output.read() == bytes(size)
    assert await life.exit_of(pid) == 0
    assert await life.delete(pid) == 0


async def test_delete_is_the_end_for_readers(live: Prepare, fifo: MakeFifo) -> None:
    """After it they see EOF, whoever was there, and what nobody had read is gone."""
    life = await running(live)
    waiting, unread = fifo("waiting"), fifo("unread")
    reading = waiting.read()
    pid = await life.exec(
        "sh",
        "-c",
        "echo x; echo y >&2; sleep 1000 & exec sleep 1000",
        stdout=str(waiting),
        stderr=str(unread),
    )
    await eventually(lambda: _unread(unread) == 2)
    assert await life.delete(pid) == KILLED
    assert await reading == b"x\n"
    assert not any(path in (str(waiting), str(unread)) for path in descriptors().values())
    assert _unread(unread) == 0


async def test_two_processes_on_one_fifo(live: Prepare, fifo: MakeFifo) -> None:
    """It has its end when both have theirs, and Delete of the one leaves the other's alone."""
    life = await running(live)
    output, orders = fifo("output"), fifo("orders")
    reading = output.read()
    other = await life.exec("sh", "-c", "read -r x; echo $x", stdin=str(orders), stdout=str(output))
    one = await life.exec("echo", "one", stdout=str(output))
    assert await life.exit_of(one) == 0
    assert await life.delete(one) == 0
    assert await orders.write(b"other\n") == 6
    assert await life.exit_of(other) == 0
    assert await reading == b"one\nother\n"
    assert await life.delete(other) == 0


# -- stdin ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_a_writer_that_comes_late(live: Prepare, fifo: MakeFifo, whose: str) -> None:
    """cat waits for it, takes 3 MB, and ends when it closes."""
    data = os.urandom(3 * MEGABYTE)
    source, output = fifo("source"), fifo("output")
    paths = {"stdin": str(source), "stdout": str(output)}
    reading = output.read()
    if whose == "init":
        life = await running(live, "cat", **paths)
        pid = life.pid
    else:
        life = await running(live)
        pid = await life.exec("cat", **paths)
    assert (await life.states())[pid] is RUNNING
    assert await source.write(data) == len(data)
    assert await reading == data
    assert await life.exit_of(pid) == 0
    assert await life.delete(pid) == 0


async def test_echo_into_cat_many_times(live: Prepare, fifo: MakeFifo) -> None:
    """A writer that has opened, written and closed at once: whenever it does, all of it arrives."""
    life = await running(live)
    for number in range(rounds(12, 1000)):
        source, output = fifo(f"source{number}"), fifo(f"output{number}")
        reading, writing = output.read(), source.write(b"x\n")
        pid = await life.exec("cat", stdin=str(source), stdout=str(output))
        assert await reading == b"x\n"
        assert await writing == 2
        assert await life.exit_of(pid) == 0
        assert await life.delete(pid) == 0
        life.recorder.seen.clear()


async def test_a_writer_that_has_gone_before_start(live: Prepare, fifo: MakeFifo) -> None:
    """What it wrote between Create and Start waits for the process, and then its end does."""
    source, output = fifo("source"), fifo("output")
    reading = output.read()
    life = live("cat")
    await life.create(stdin=str(source), stdout=str(output))
    assert await source.write(b"early\n") == 6
    await life.start()
    assert await reading == b"early\n"
    assert await life.exit_of(life.pid) == 0


async def test_one_writer_after_the_other(live: Prepare, fifo: MakeFifo) -> None:
    """While one is there, another may come; the end is when the last has closed."""
    life = await running(live)
    source, output = fifo("source"), fifo("output")
    reading = output.read()
    pid = await life.exec("cat", stdin=str(source), stdout=str(output))
    first = await asyncio.to_thread(os.open, source, os.O_WRONLY)
    os.write(first, b"1")
    second = await asyncio.to_thread(os.open, source, os.O_WRONLY)
    os.close(first)
    os.write(second, b"2")
    assert (await life.states())[pid] is RUNNING
    os.close(second)
    assert await reading == b"12"
    assert await life.exit_of(pid) == 0


async def test_a_writer_whose_process_has_gone(live: Prepare, fifo: MakeFifo) -> None:
    """It gets EPIPE instead of writing to nobody for ever."""
    life = await running(live)
    source = fifo("source")
    pid = await life.exec(*SLEEP, stdin=str(source))
    writer = await asyncio.to_thread(os.open, source, os.O_WRONLY)
    os.kill(pid, signal.SIGKILL)
    assert await life.exit_of(pid) == KILLED
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
    assert await life.delete(pid) == KILLED


async def test_a_process_that_reads_less_than_there_is(live: Prepare, fifo: MakeFifo) -> None:
    """At most a page beyond what it took is taken from the FIFO."""
    life = await running(live)
    source, output = fifo("source"), fifo("output")
    reading = output.read()
    writer = os.open(source, os.O_RDWR)
    os.write(writer, bytes(60_000))
    pid = await life.exec("dd", "bs=1", "count=10", stdin=str(source), stdout=str(output))
    assert await reading == bytes(10)
    assert await life.exit_of(pid) == 0
    assert _unread(source) >= 60_000 - 4096 - 10
    os.close(writer)


async def test_no_writer_ever(live: Prepare, fifo: MakeFifo) -> None:
    """The process waits; Delete does not."""
    life = await running(live)
    pid = await life.exec("cat", stdin=str(fifo("source")))
    assert (await life.states())[pid] is RUNNING
    async with asyncio.timeout(15):
        assert await life.delete(pid) == KILLED


# -- inside --------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_an_unprivileged_process_opens_its_outputs_by_path(
    live: Prepare, fifo: MakeFifo, whose: str
) -> None:
    """/dev/stdout and /dev/stderr are opened anew, by uid 1000, although the FIFOs are root's."""
    output, errors, source = fifo("output"), fifo("errors"), fifo("source")
    for each in (output, errors, source):
        os.chmod(each, 0o600)
    reading = output.read(), errors.read()
    program = ("sh", "-c", "id -u >/dev/stdout; echo error >/dev/stderr; cat /dev/stdin >/dev/fd/1")
    fields = {"stdin": str(source), "stdout": str(output), "stderr": str(errors)}
    writing = source.write(b"input\n")
    if whose == "init":
        life = live(*program, user=(1000, 1000))
        await life.create(**fields)
        await life.start()
        pid = life.pid
    else:
        life = await running(live)
        pid = await life.exec(*program, user=User(uid=1000, gid=1000), **fields)
    assert [await each for each in reading] == [b"1000\ninput\n", b"error\n"]
    assert await writing == 6
    assert await life.exit_of(pid) == 0


async def test_descriptors_are_blocking(live: Prepare, fifo: MakeFifo) -> None:
    """Few programs expect EAGAIN of their standard descriptors."""
    life = await running(live)
    output = fifo("output")
    pid = await life.exec(*SLEEP, stdin=str(fifo("source")), stdout=str(output), stderr=str(output))
    for number in range(3):
        info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
        flags = int(info.partition("flags:")[2].split()[0], 8)
        assert not flags & os.O_NONBLOCK, number
    assert await life.delete(pid) == KILLED


async def test_many_processes_with_fifos_leave_no_descriptor(live: Prepare, fifo: MakeFifo) -> None:
    """Beside the epoll and the inotify of all FIFOs."""
    life = await running(live)

    async def some(count: int) -> None:
        fifos = iter([str(fifo(f"{count}-{number}")) for number in range(3 * count)])
        pids = [
            await life.exec("cat", stdin=next(fifos), stdout=next(fifos), stderr=next(fifos))
            for _ in range(count)
        ]
        assert await asyncio.gather(*map(life.delete, pids)) == [KILLED] * count

    await some(1)
    before = descriptors()
    await some(20)
    assert opened_since(before) == []
