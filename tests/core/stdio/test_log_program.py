"""Log programs, real ones in sh."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.reaper import Reaper
from shimpy.core.stdio.uri import LogProgram
from shimpy.errors import InternalError, InvalidArgumentError, NotFoundError, PermissionDeniedError, ShimError
from tests.support.leaks import alive, children, descriptors, eventually, opened_since
from tests.support.log_programs import COPY, start

pytestmark = pytest.mark.anyio


async def test_it_reads_both_outputs_to_the_end(
    tmp_path: Path, reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    before = descriptors()
    logger = await start(program(COPY), reaper)
    os.write(logger.stdout, b"to stdout")
    os.write(logger.stderr, b"to stderr")

    await logger.aclose()

    assert (tmp_path / "out").read_bytes() == b"to stdout"
    assert (tmp_path / "err").read_bytes() == b"to stderr"
    assert opened_since(before) == []


async def test_it_is_told_the_container_and_nothing_else(
    tmp_path: Path, reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    script = 'printf "%s\\n" "$@" >arguments; tr "\\0" "\\n" </proc/$$/environ >environment'
    logger = await start(program(f"{script}; exec 5>&-; cat <&3", "a", "", "b", "x y"), reaper)

    await logger.aclose()

    assert (tmp_path / "arguments").read_text() == "a\n\nb\nx y\n"
    assert (tmp_path / "environment").read_text() == "CONTAINER_ID=web\nCONTAINER_NAMESPACE=k8s.io\n"


async def test_it_has_six_descriptors(
    tmp_path: Path, reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    inherited = [os.open("/", os.O_RDONLY) for _ in range(2)]
    for fd in inherited:
        os.set_inheritable(fd, True)
    script = (
        f"exec {sys.executable} -IS -c 'import os\n"
        'names = {n: os.readlink(f"/proc/self/fd/{n}").partition(":")[0] for n in os.listdir("/proc/self/fd")'
        ' if os.path.exists(f"/proc/self/fd/{n}")}\n'
        'open("found", "w").write(repr(sorted(names.items())))\'\n'
    )

    logger = await start(program(script), reaper)
    await logger.aclose()

    found = "[('0', '/dev/null'), ('1', '/dev/null'), ('2', '/dev/null'), ('3', 'pipe'), ('4', 'pipe'), "
    assert (tmp_path / "found").read_text() == found + "('5', 'pipe')]"
    for fd in inherited:
        os.close(fd)


async def test_it_begins_with_signals_as_usual(tmp_path: Path, reaper: Reaper) -> None:
    # Not a shell: it begins by unblocking signals itself.
    copy = LogProgram("/bin/cp", ("/proc/self/status", str(tmp_path / "status")), must_say_ready=False)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        logger = await start(copy, reaper)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    await logger.aclose()

    status = dict(line.split(":\t") for line in (tmp_path / "status").read_text().splitlines())
    masks = [status["SigBlk"], status["SigIgn"]]
    usable = ~(1 << 31 | 1 << 32)  # the C library keeps two for itself
    assert [int(mask, 16) & usable for mask in masks] == [0, 0]


async def test_a_byte_says_that_it_is_ready(
    tmp_path: Path, reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    logger = await start(program("echo >&5; touch said; cat <&3", must_say_ready=True), reaper)

    await logger.aclose()


async def test_a_program_that_ends_counts_as_ready(
    reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    logger = await start(program("exit 1"), reaper)

    await logger.aclose()


async def test_one_that_must_say_it_and_does_not_has_failed(
    reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    before = descriptors()

    with pytest.raises(InternalError, match="did not say that it is ready"):
        await start(program("exit 0", must_say_ready=True), reaper)

    assert opened_since(before) == []


async def test_one_that_must_say_it_and_goes_on_in_silence_is_killed(
    tmp_path: Path, reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    with pytest.raises(InternalError, match="did not say"):
        await start(program("echo $$ >pid; exec 5>&-; exec sleep 100", must_say_ready=True), reaper)

    assert not alive(int((tmp_path / "pid").read_text()))


async def test_one_that_is_never_ready_is_killed(
    tmp_path: Path, reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    before = descriptors()

    with pytest.raises(InternalError, match=r"not ready within 0\.5 s"):
        await start(program("echo $$ >pid; exec sleep 100"), reaper, ready_within=0.5)

    assert opened_since(before) == []
    await eventually(
        lambda: not (tmp_path / "pid").exists() or not alive(int((tmp_path / "pid").read_text()))
    )


async def test_a_cancelled_start_leaves_nothing(
    tmp_path: Path, reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    before = descriptors()
    starting = asyncio.create_task(start(program("echo $$ >pid; exec sleep 100"), reaper))
    await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert not alive(int((tmp_path / "pid").read_text()))
    assert opened_since(before) == []


async def test_a_program_that_is_not_there(reaper: Reaper) -> None:
    before = descriptors()

    with pytest.raises(NotFoundError, match="/no/such"):
        await start(LogProgram("/no/such", (), must_say_ready=False), reaper)

    assert opened_since(before) == []


async def test_a_program_that_may_not_be_run(tmp_path: Path, reaper: Reaper) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\n")

    with pytest.raises(PermissionDeniedError, match="program"):
        await start(LogProgram(str(tmp_path / "program"), (), must_say_ready=False), reaper)


async def test_what_is_not_a_program(tmp_path: Path, reaper: Reaper) -> None:
    (tmp_path / "program").write_text("words")
    (tmp_path / "program").chmod(0o755)

    with pytest.raises(InvalidArgumentError, match="Exec format error"):
        await start(LogProgram(str(tmp_path / "program"), (), must_say_ready=False), reaper)


async def test_without_a_descriptor_to_watch_it_by_none_runs(
    tmp_path: Path,
    reaper: Reaper,
    program: Callable[..., LogProgram],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = descriptors()

    def refuse(pid: int) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", refuse)
        with pytest.raises(ShimError, match="Too many"):
            await start(program("exec sleep 100"), reaper)

    assert children() == {}
    assert opened_since(before) == []


async def test_the_pipes_belong_to_whom_they_are_to(
    reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    logger = await start(program(COPY), reaper, owner=(1000, 1001))

    owners = [(status.st_uid, status.st_gid) for status in map(os.fstat, (logger.stdout, logger.stderr))]
    await logger.aclose()

    assert owners == [(1000, 1001)] * 2


CROWDED = """
import asyncio, os, sys
from shimpy.core.stdio.log_program import Logger
from shimpy.core.stdio.uri import LogProgram
from shimpy.core.reaper import Reaper

kept = [os.dup(0) for _ in range(3)]
assert kept == [3, 4, 5]
real, places = os.pipe2, [(0, 5), (0, 3), (1, 4)]

def pipe2(flags):
    ends = [*real(flags)]
    end, place = places.pop(0)
    os.dup2(ends[end], place, inheritable=False)
    os.close(ends[end])
    ends[end] = place
    return tuple(ends)

async def main():
    os.pipe2 = pipe2
    reaper = Reaper()
    reaper.open()
    program = LogProgram(sys.argv[1], (), must_say_ready=False)
    logger = await Logger.start(program, reaper, container_id="web", namespace="default")
    assert places == []
    os.write(logger.stdout, b"to stdout")
    os.write(logger.stderr, b"to stderr")
    await logger.aclose()
    reaper.close()

asyncio.run(main())
"""


def test_descriptors_in_the_place_of_its_own_are_not_mixed_up(
    tmp_path: Path, program: Callable[..., LogProgram]
) -> None:
    """A process with few file descriptors makes the pipes where the program is to find other ones."""
    path = program(COPY).path

    subprocess.run([sys.executable, "-c", CROWDED, path], check=True, stdin=subprocess.DEVNULL)

    assert (tmp_path / "out").read_bytes() == b"to stdout"
    assert (tmp_path / "err").read_bytes() == b"to stderr"
