"""Log URIs in place of stdout: what a process gets instead, and when a program is started and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.model import Policy, StdioPaths
from shimpy.core.reaper import Reaper
from shimpy.core.stdio import ProcessIO, StdioHub, open_stdio
from shimpy.core.stdio.logs import LogPrograms
from shimpy.core.stdio.owner import Owner
from shimpy.core.stdio.uri import LogProgram
from shimpy.errors import InternalError, InvalidArgumentError, NotFoundError
from tests.core.stdio.test_terminal import Process, run as run_on_terminal
from tests.support.fifos import Fifo
from tests.support.leaks import alive, eventually
from tests.support.log_programs import COPY

pytestmark = pytest.mark.anyio

MakeFifo = Callable[[str], Fifo]
MakeProgram = Callable[..., LogProgram]

LOGGED = Policy(relay_output=True, log_uris=True)
SOON = 30.0


@pytest.fixture
def opened(hub: StdioHub, reaper: Reaper) -> Callable[..., ProcessIO]:
    """Opens stdio that may name URIs, of the exec `one` in the namespace `k8s.io`."""

    def open_(stdout: str, *, owner: Owner | None = None, **paths: object) -> ProcessIO:
        stdio = StdioPaths(stdout=stdout, **paths)  # type: ignore[arg-type]  # a test says what it is about
        logs = LogPrograms(reaper, "one", "k8s.io")
        return open_stdio(hub, stdio, policy=LOGGED, is_exec=True, owner=owner, logs=logs)

    return open_


async def run(io: ProcessIO, script: str) -> None:
    """Runs a script to its end, as a runtime and its process would."""
    await io.prepare()
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", script, stdin=io.fds[0], stdout=io.fds[1], stderr=io.fds[2]
    )
    await io.attach()
    await process.wait()
    io.process_exited()
    await io.drain(SOON)


async def reaped(pid: int) -> None:
    """Waits until nothing is left of a program that ends by itself."""
    await eventually(lambda: not Path(f"/proc/{pid}").exists())


# -- Files and FIFOs


async def test_a_log_file_takes_both_outputs(opened: Callable[..., ProcessIO], tmp_path: Path) -> None:
    log = tmp_path / "a" / "b" / "log"
    io = opened(f"file://{log}", stderr="/no/such/file")
    await run(io, "echo out; echo err >&2")
    io.close()
    again = opened(f"file://{log}", stderr=f"file://{log}")
    await run(again, "echo more")
    again.close()
    assert log.read_text() == "out\nerr\nmore\n"


async def test_a_terminal_has_no_log_file(opened: Callable[..., ProcessIO], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="terminal"):
        opened(f"file://{tmp_path}/log", terminal=True)
    assert not (tmp_path / "log").exists()


async def test_a_fifo_may_be_named_by_a_uri(opened: Callable[..., ProcessIO], fifo: MakeFifo) -> None:
    out, err = fifo("out"), fifo("err")
    readers = out.read(), err.read()
    io = opened(f"fifo://{out}", stderr=f"fifo://{err}")
    await run(io, "echo out; echo err >&2")
    assert [await asyncio.wait_for(reader, SOON) for reader in readers] == [b"out\n", b"err\n"]
    io.close()


async def test_paths_are_what_they_were(opened: Callable[..., ProcessIO], fifo: MakeFifo) -> None:
    out, err = fifo("out"), fifo("err")
    readers = out.read(), err.read()
    io = opened(str(out), stderr=str(err))
    await run(io, "echo out; echo err >&2")
    assert [await asyncio.wait_for(reader, SOON) for reader in readers] == [b"out\n", b"err\n"]
    io.close()


@pytest.mark.parametrize("stderr", ["file:///tmp/log", "binary:///bin/cat", "relative"])
async def test_stderr_beside_a_fifo_is_a_path(opened: Callable[..., ProcessIO], stderr: str) -> None:
    with pytest.raises(InvalidArgumentError, match="stderr"):
        opened("", stderr=stderr)


async def test_another_scheme_is_refused(opened: Callable[..., ProcessIO]) -> None:
    with pytest.raises(InvalidArgumentError, match="scheme"):
        opened("http://localhost/log")


# -- Programs


async def test_a_program_reads_both_outputs(
    opened: Callable[..., ProcessIO], tmp_path: Path, program: MakeProgram
) -> None:
    io = opened(f"binary://{program('env >environment; ' + COPY).path}")
    await run(io, "echo out; echo err >&2")
    await io.finish()
    assert (tmp_path / "out").read_text() == "out\n"
    assert (tmp_path / "err").read_text() == "err\n"
    environment = (tmp_path / "environment").read_text().splitlines()
    assert {"CONTAINER_ID=one", "CONTAINER_NAMESPACE=k8s.io"} <= {*environment}
    io.close()


async def test_a_program_is_ready_before_the_process_is_run(
    opened: Callable[..., ProcessIO], tmp_path: Path, program: MakeProgram
) -> None:
    io = opened(f"binary-v2://{program('touch begun; echo >&5; exec 5>&-; cat <&3').path}")
    assert not (tmp_path / "begun").exists()
    await io.prepare()
    assert (tmp_path / "begun").exists()
    await io.finish()
    io.close()


async def test_a_program_that_is_not_ready_fails_the_preparation(
    opened: Callable[..., ProcessIO], program: MakeProgram
) -> None:
    io = opened(f"binary-v2://{program('exit 0').path}")
    with pytest.raises(InternalError, match="ready"):
        await io.prepare()
    await io.finish()
    io.close()
    io = opened("binary:///no/such/program")
    with pytest.raises(NotFoundError, match="/no/such/program"):
        await io.prepare()
    io.close()


async def test_a_program_goes_on_until_it_is_ended(
    opened: Callable[..., ProcessIO], tmp_path: Path, program: MakeProgram
) -> None:
    io = opened(f"binary://{program('echo $$ >pid; ' + COPY).path}")
    await run(io, "echo out")
    pid = int((tmp_path / "pid").read_text())
    await asyncio.sleep(0.1)
    assert alive(pid)
    await io.finish()
    await io.finish()
    assert not alive(pid)
    io.close()


async def test_what_is_closed_and_not_ended_reads_to_the_end_of_its_input(
    opened: Callable[..., ProcessIO], tmp_path: Path, program: MakeProgram
) -> None:
    """So a shim that goes leaves a container its log program."""
    io = opened(f"binary://{program('echo $$ >pid; ' + COPY).path}")
    await io.prepare()
    output = os.dup(io.fds[1])
    await io.attach()
    io.close()
    os.write(output, b"later")
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    os.close(output)
    await reaped(pid)
    assert (tmp_path / "out").read_text() == "later"


async def test_a_programs_pipes_belong_to_the_owner(
    opened: Callable[..., ProcessIO], program: MakeProgram
) -> None:
    io = opened(f"binary://{program(COPY).path}", owner=Owner(1000, 1001))
    await io.prepare()
    owners = [(status.st_uid, status.st_gid) for status in map(os.fstat, io.fds[1:])]
    await io.finish()
    io.close()
    assert owners == [(1000, 1001)] * 2


async def test_what_was_never_prepared_has_no_program(
    opened: Callable[..., ProcessIO], tmp_path: Path, program: MakeProgram
) -> None:
    io = opened(f"binary://{program('touch begun').path}")
    await io.finish()
    io.close()
    assert not (tmp_path / "begun").exists()


# -- On a terminal


async def test_a_terminals_program_reads_what_it_shows(
    opened: Callable[..., ProcessIO], tmp_path: Path, program: MakeProgram
) -> None:
    script = "echo $$ >pid; exec 5>&-; cat <&3 >out; touch ended; cat <&4 >err; touch closed"
    io = opened(f"binary://{program(script).path}", terminal=True)
    await io.prepare()
    assert not (tmp_path / "pid").exists()
    process = await run_on_terminal(io, "sh", "-c", "echo shown; echo err >&2")
    await process.exit()
    await io.drain(SOON)
    await eventually((tmp_path / "ended").exists)
    assert (tmp_path / "out").read_bytes() == b"shown\r\nerr\r\n"
    assert not (tmp_path / "closed").exists()
    await io.finish()
    io.close()
    await reaped(int((tmp_path / "pid").read_text()))
    assert (tmp_path / "closed").exists()
    assert (tmp_path / "err").read_text() == ""


async def test_a_terminals_program_that_is_not_there_fails_the_attaching(
    opened: Callable[..., ProcessIO],
) -> None:
    io = opened("binary:///no/such/program", terminal=True)
    process = Process(io, ["true"])
    with pytest.raises(NotFoundError, match="/no/such/program"):
        await io.attach()
    await process.exit()
    io.close()


async def test_a_terminals_program_that_does_not_read_holds_nobody_up(
    opened: Callable[..., ProcessIO], tmp_path: Path, program: MakeProgram
) -> None:
    script = "echo $$ >pid; exec 5>&-; exec sleep 1000"
    io = opened(f"binary://{program(script).path}", terminal=True)
    process = await run_on_terminal(io, "cat", "/dev/zero", raw=True)
    async with asyncio.timeout(SOON):
        await asyncio.sleep(0.1)
        await process.kill()
        await io.drain(0.05)
        io.close()
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    await reaped(pid)


async def test_a_terminals_program_that_ends_before_its_process_is_told(
    opened: Callable[..., ProcessIO],
    tmp_path: Path,
    program: MakeProgram,
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = "exec 5>&-; while [ ! -e attached ]; do sleep 0.02; done; exit 3"
    io = opened(f"binary://{program(script).path}", terminal=True)
    process = await run_on_terminal(io, "sleep", "1000")
    (tmp_path / "attached").touch()
    await eventually(lambda: "ended with status 3" in caplog.text)
    await process.kill()
    io.close()


async def test_a_device_that_is_named_as_a_log_file_is_opened(opened: Callable[..., ProcessIO]) -> None:
    io = opened("file:///dev/full")
    assert stat.S_ISCHR(os.fstat(io.fds[1]).st_mode)
    io.close()
