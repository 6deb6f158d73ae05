"""Opening what a process reads and writes, and the pump between a FIFO and its stdin."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import random
import resource
import select
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.model import StdioPaths
from shimpy.core.stdio import ProcessIO, StdioHub, open_stdio
from shimpy.core.stdio.fifo import poll
from shimpy.core.stdio.stdin_pump import StdinPump
from shimpy.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ShimError,
)
from tests.support.fifos import Fifo
from tests.support.leaks import descriptors, eventually
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio

MakeFifo = Callable[[str], Fifo]

FIELDS = ["stdin", "stdout", "stderr"]


def opened(hub: StdioHub, stdin: object = "", stdout: object = "", stderr: object = "") -> ProcessIO:
    return open_stdio(hub, StdioPaths(stdin=str(stdin), stdout=str(stdout), stderr=str(stderr)))


async def run(io: ProcessIO, *args: str) -> asyncio.subprocess.Process:
    """Runs a command as a runtime would, and hands over to it."""
    process = await asyncio.create_subprocess_exec(*args, stdin=io.fds[0], stdout=io.fds[1], stderr=io.fds[2])
    await io.attach()
    return process


# -- Opening


def refused(hub: StdioHub, field: str, path: str, *, terminal: bool = False) -> ShimError:
    before = descriptors()
    stdin, stdout, stderr = (path if name == field else "" for name in FIELDS)
    with pytest.raises(ShimError) as caught:
        open_stdio(hub, StdioPaths(terminal=terminal, stdin=stdin, stdout=stdout, stderr=stderr))
    assert descriptors().items() <= before.items()
    assert caught.value.args[0].startswith(field)
    return caught.value


@pytest.mark.parametrize("field", FIELDS)
async def test_a_path_must_be_there(hub: StdioHub, tmp_path: Path, field: str) -> None:
    missing = tmp_path / "missing"
    error = refused(hub, field, str(missing))
    assert isinstance(error, NotFoundError)
    assert str(error) == f"{field} '{missing}': No such file or directory"
    assert not missing.exists()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "path", ["relative", "./out", "/tmp/a\0b", "/tmp/\ud800", "binary:///bin/logger", " "]
)
async def test_a_path_must_be_absolute_and_a_path(hub: StdioHub, field: str, path: str) -> None:
    assert isinstance(refused(hub, field, path), InvalidArgumentError)


@pytest.mark.parametrize("field", FIELDS)
async def test_other_kinds_of_files_are_refused(hub: StdioHub, tmp_path: Path, field: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listener:
        # A path that fits an address whatever the folder is called.
        fd = os.open(tmp_path, os.O_PATH)
        listener.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    for name, words in {
        ".": "is a directory",
        "socket": "is a socket",
        "loop": "Too many levels of symbolic links",
        "x" * 300: "File name too long",
    }.items():
        error = refused(hub, field, str(tmp_path / name))
        assert isinstance(error, InvalidArgumentError)
        assert words in str(error)


@pytest.mark.parametrize("terminal", [False, True])
async def test_a_terminal_refuses_as_well(hub: StdioHub, tmp_path: Path, terminal: bool) -> None:
    for field in ("stdin", "stdout"):
        missing = refused(hub, field, str(tmp_path / "missing"), terminal=terminal)
        assert isinstance(missing, NotFoundError)
        assert isinstance(refused(hub, field, str(tmp_path), terminal=terminal), InvalidArgumentError)


async def test_what_comes_before_a_file_must_be_a_directory(hub: StdioHub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert isinstance(refused(hub, "stdin", str(tmp_path / "file" / "below")), NotFoundError)


async def test_a_long_path_makes_no_long_message(hub: StdioHub) -> None:
    assert len(str(refused(hub, "stdin", "/" + "x" * 3_000_000))) < 400


async def test_a_device_without_a_driver_is_refused(hub: StdioHub, tmp_path: Path) -> None:
    os.mknod(tmp_path / "device", stat.S_IFCHR | 0o600, os.makedev(4095, 0))
    assert isinstance(refused(hub, "stdout", str(tmp_path / "device")), InvalidArgumentError)


async def test_a_block_device_is_refused_unopened(hub: StdioHub, tmp_path: Path) -> None:
    os.mknod(tmp_path / "device", stat.S_IFBLK | 0o600, os.makedev(4095, 0))
    error = refused(hub, "stdout", str(tmp_path / "device"))
    assert isinstance(error, InvalidArgumentError)
    assert "is a block device" in str(error)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("path", ["/proc/self/mem", "/proc/self/comm", "/sys/kernel/uevent_seqnum"])
async def test_a_file_of_the_kernel_is_refused(hub: StdioHub, field: str, path: str) -> None:
    error = refused(hub, field, path)
    assert isinstance(error, InvalidArgumentError)
    assert f"is a file of {'procfs' if path.startswith('/proc') else 'sysfs'}" in str(error)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, PermissionDeniedError),
        (errno.EROFS, PermissionDeniedError),
        (errno.ENOSPC, ResourceExhaustedError),
        (errno.EDQUOT, ResourceExhaustedError),
        (errno.EMFILE, ResourceExhaustedError),
        (errno.ETXTBSY, InvalidArgumentError),
    ],
)
async def test_what_the_kernel_refuses_is_told_by_its_kind(
    hub: StdioHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[ShimError]
) -> None:
    def refuse(_fd: int, _flags: int) -> int:
        raise OSError(number, os.strerror(number))

    (tmp_path / "log").touch()
    monkeypatch.setattr("shimpy.core.stdio.streams.reopen", refuse)
    error = refused(hub, "stdin", str(tmp_path / "log"))
    assert type(error) is kind
    assert os.strerror(number) in str(error)


async def test_no_descriptors(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    opened(hub, source, out).close()
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    refusals = 0
    try:
        for terminal in (False, True):
            for limit in range(3, 60):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                try:
                    io = open_stdio(
                        hub, StdioPaths(terminal=terminal, stdin=str(source), stdout=str(out), stderr="")
                    )
                except ResourceExhaustedError:
                    refusals += 1
                else:
                    io.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refusals > 0
    assert descriptors().items() <= before.items()


async def test_empty_paths_are_dev_null(hub: StdioHub) -> None:
    io = opened(hub)
    null = os.stat("/dev/null").st_rdev
    assert [os.fstat(fd).st_rdev for fd in io.fds] == [null] * 3
    assert [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in io.fds] == [
        os.O_RDONLY,
        os.O_WRONLY,
        os.O_WRONLY,
    ]
    io.close()


async def test_a_process_gets_descriptors_that_block_and_that_nobody_else_inherits(
    hub: StdioHub, fifo: MakeFifo, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    leader, follower = os.openpty()
    tty = os.ttyname(follower)
    for paths in [(fifo("in"), fifo("out"), fifo("err")), (file, file, file), (tty, tty, tty)]:
        io = opened(hub, *paths)
        assert all(os.get_blocking(fd) for fd in io.fds)
        assert not any(os.get_inheritable(fd) for fd in descriptors() if fd > 2 and fd in set(io.fds))
        io.close()
    os.close(leader)
    os.close(follower)


async def test_files_are_appended_to(hub: StdioHub, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    io = opened(hub, "", file, file)
    process = await run(io, "sh", "-c", "for i in 1 2 3; do echo out $i; echo err $i >&2; done")
    await process.wait()
    io.close()
    assert file.read_text() == "before\n" + "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3))


async def test_both_outputs_in_one_fifo_keep_their_order(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, "", out, out)
    reader = out.read()
    process = await run(io, "sh", "-c", "for i in 1 2 3; do echo out $i; echo err $i >&2; done")
    await process.wait()
    assert (await reader).decode() == "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3))
    io.close()


async def test_one_file_by_two_names_is_opened_once(hub: StdioHub, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to("b")
    io = opened(hub, "", tmp_path / "a", tmp_path / "c")
    assert io.fds[1] == io.fds[2]
    io.close()


async def test_a_regular_file_as_stdin(hub: StdioHub, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    (tmp_path / "out").touch()
    io = opened(hub, tmp_path / "in", tmp_path / "out")
    await (await run(io, "cat")).wait()
    io.close()
    assert (tmp_path / "out").read_text() == "hello"


async def test_a_fifo_that_is_gone_by_name_works_on(hub: StdioHub, fifo: MakeFifo) -> None:
    out = fifo("out")
    io = opened(hub, "", out)
    reader = out.read()
    await eventually(lambda: len([name for name in descriptors().values() if name == str(out)]) >= 3)
    out.path.unlink()
    await (await run(io, "echo", "hello")).wait()
    assert await reader == b"hello\n"
    io.close()


async def test_no_terminal_to_resize(hub: StdioHub) -> None:
    io = opened(hub)
    with pytest.raises(FailedPreconditionError, match="no terminal"):
        io.resize(80, 25)
    await io.drain(2)
    io.close()


async def test_a_reader_that_was_there_sees_the_end_of_a_call_that_failed(
    hub: StdioHub, fifo: MakeFifo
) -> None:
    out = fifo("out")
    reader = out.read()
    io = opened(hub, fifo("in"), out)
    await eventually(lambda: list(descriptors().values()).count(str(out)) == 3)
    io.close()
    io.close()
    assert await asyncio.wait_for(reader, 5) == b""


# -- The pump

FEW = 4
"""Times that the pump may be woken for one thing that happens: it asks until there is no more."""


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[StdinPump]:
    """Grows by one each time that a pump is woken."""
    woken: list[StdinPump] = []
    move = StdinPump._move

    def counted(pump: StdinPump) -> None:
        woken.append(pump)
        move(pump)

    monkeypatch.setattr(StdinPump, "_move", counted)
    return woken


async def test_a_process_waits_for_a_writer_and_reads_to_its_end(
    hub: StdioHub, fifo: MakeFifo, tmp_path: Path
) -> None:
    source, out = fifo("in"), tmp_path / "out"
    out.touch()
    io = opened(hub, source, out)
    process = await run(io, "sha256sum")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.1)
    data = random.Random(1).randbytes(3_000_000)
    written = source.write(data)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert await written == len(data)
    io.process_exited()
    assert out.read_text().split()[0] == hashlib.sha256(data).hexdigest()
    io.close()


async def test_a_writer_that_left_before_the_start(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    for number in range(rounds(30, 1000)):
        io = opened(hub, source, out)
        data = b"%d\n" % number
        assert await source.write(data) == len(data)
        reader = out.read()
        process = await run(io, "cat")
        assert await asyncio.wait_for(process.wait(), 10) == 0
        io.process_exited()
        assert await asyncio.wait_for(reader, 10) == data
        io.close()


async def test_a_writer_that_wrote_nothing_is_an_end(hub: StdioHub, fifo: MakeFifo) -> None:
    source = fifo("in")
    io = opened(hub, source)
    process = await run(io, "cat")
    await source.write(b"")
    assert await asyncio.wait_for(process.wait(), 5) == 0
    io.close()


async def test_the_end_comes_with_the_last_of_two_writers(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    io = opened(hub, source, out)
    reader = out.read()
    process = await run(io, "cat")
    staying = os.open(source, os.O_WRONLY)
    await source.write(b"one ")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.1)
    os.write(staying, b"two")
    os.close(staying)
    assert await asyncio.wait_for(reader, 5) == b"one two"
    await process.wait()
    io.close()


async def test_no_more_is_taken_than_a_page_ahead_of_the_process(
    hub: StdioHub, fifo: MakeFifo, moves: list[StdinPump]
) -> None:
    source = fifo("in")
    io = opened(hub, source)
    process = await run(io, "sleep", "60")
    fd = os.open(source, os.O_WRONLY | os.O_NONBLOCK)
    for _ in range(16):
        os.write(fd, bytes(4096))
    await eventually(lambda: _in_pipe(fd) < 65536)
    await asyncio.sleep(0.2)
    assert _in_pipe(fd) == 65536 - 4096
    assert len(moves) <= FEW
    os.close(fd)
    process.kill()
    await process.wait()
    io.process_exited()
    io.close()


def _in_pipe(fd: int) -> int:
    fionread = 0x541B
    return int.from_bytes(fcntl.ioctl(fd, fionread, bytes(4)), "little")


async def test_a_writer_learns_that_the_process_closed_its_stdin(hub: StdioHub, fifo: MakeFifo) -> None:
    source = fifo("in")
    io = opened(hub, source)
    process = await run(io, "sh", "-c", "exec <&-; sleep 60")
    fd = os.open(source, os.O_WRONLY | os.O_NONBLOCK)

    def refused() -> bool:
        try:
            os.write(fd, b"x")
        except BrokenPipeError:
            return True
        except BlockingIOError:
            return False
        return False

    await eventually(refused)
    os.close(fd)
    process.kill()
    await process.wait()
    io.close()


async def test_a_writer_that_waits_learns_that_the_process_closed_its_stdin(
    hub: StdioHub, fifo: MakeFifo
) -> None:
    source = fifo("in")
    io = opened(hub, source)
    fd = os.open(source, os.O_WRONLY | os.O_NONBLOCK)
    process = await run(io, "sh", "-c", "exec <&-; sleep 60")
    await eventually(lambda: poll(fd) & select.POLLERR)
    os.close(fd)
    process.kill()
    await process.wait()
    io.close()


async def test_children_that_outlive_the_process_read_no_more(hub: StdioHub, fifo: MakeFifo) -> None:
    source = fifo("in")
    io = opened(hub, source)
    child = os.dup(io.fds[0])
    fd = os.open(source, os.O_WRONLY | os.O_NONBLOCK)
    await io.attach()
    io.process_exited()
    with pytest.raises(BrokenPipeError):
        os.write(fd, b"x")
    assert os.read(child, 1) == b""
    os.close(fd)
    os.close(child)
    io.close()


async def test_a_writer_learns_that_the_process_exited(hub: StdioHub, fifo: MakeFifo) -> None:
    source = fifo("in")
    io = opened(hub, source)
    process = await run(io, "head", "-c", "1")
    written = source.write(bytes(1_000_000))
    await process.wait()
    io.process_exited()
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(written, 5)
    io.close()


async def test_an_exit_before_the_runtime_is_done(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    io = opened(hub, source, out)
    process = await asyncio.create_subprocess_exec("echo", "gone", stdin=io.fds[0], stdout=io.fds[1])
    await process.wait()
    io.process_exited()
    await io.attach()
    assert await asyncio.wait_for(out.read(), 5) == b"gone\n"
    io.close()


@pytest.mark.parametrize("writer", ["none yet", "idle", "left"])
async def test_an_idle_stdin_costs_nothing(
    hub: StdioHub, fifo: MakeFifo, moves: list[StdinPump], writer: str
) -> None:
    source = fifo("in")
    io = opened(hub, source)
    process = await run(io, "sleep", "60")
    fd = -1
    if writer == "idle":
        fd = os.open(source, os.O_WRONLY)
    elif writer == "left":
        await source.write(bytes(8192))
    await asyncio.sleep(0.3)
    assert len(moves) <= (FEW if writer == "left" else 0)
    if fd >= 0:
        os.close(fd)
    process.kill()
    await process.wait()
    io.process_exited()
    io.close()


async def test_dev_stdin_and_dev_stdout_can_be_opened(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    io = opened(hub, source, out)
    written = source.write(b"hello")
    reader = out.read()
    process = await run(io, "sh", "-c", "sleep 0.05; cat /dev/stdin >/dev/stdout")
    assert await asyncio.wait_for(process.wait(), 5) == 0
    await written
    assert await asyncio.wait_for(reader, 5) == b"hello"
    io.close()


async def test_descriptors_stay_flat(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    opened(hub, source, out).close()
    before = descriptors()
    for _ in range(rounds(100, 2000)):
        io = opened(hub, source, out, out)
        child = [os.dup(fd) for fd in io.fds]
        await io.attach()
        for fd in child:
            os.close(fd)
        io.process_exited()
        io.close()
    assert descriptors().items() <= before.items()
