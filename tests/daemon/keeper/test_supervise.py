"""`python -m shimpy --supervise`: a real shim below a real keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy import api
from shimpy.core.journal.files import JournalDirectory
from tests.support import leaks
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

Start = Callable[..., Server]


def shim(server: Server) -> int | None:
    """Returns the shim of a keeper, None while there is none."""
    return next((pid for pid, state in leaks.children(server.pid).items() if state != "Z"), None)


async def next_shim(server: Server, before: int | None) -> None:
    """Waits until another shim serves."""
    await leaks.eventually(lambda: shim(server) not in (None, before))
    server.wait_until_it_listens()


async def test_the_socket_answers_again_after_a_death(start_server: Start) -> None:
    server = start_server("--supervise")
    first = shim(server)
    assert first is not None

    os.kill(first, signal.SIGKILL)
    await next_shim(server, first)

    assert (await server.stub().state(api.StateRequest())).id == ""
    assert server.terminate() == 0
    assert not os.path.exists(JournalDirectory.of_socket(str(server.socket)).path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_both_and_removes_the_socket(start_server: Start, number: signal.Signals) -> None:
    server = start_server("--supervise")
    pid = shim(server)
    assert pid is not None

    server.process.send_signal(number)

    assert server.process.wait(10) == 0
    assert not leaks.alive(pid)
    assert not server.socket.exists()


async def test_sighup_starts_the_shim_anew(start_server: Start) -> None:
    server = start_server("--supervise")
    first = shim(server)

    server.process.send_signal(signal.SIGHUP)
    await next_shim(server, first)

    assert server.process.poll() is None


async def test_it_is_known_that_a_keeper_is_there(start_server: Start) -> None:
    server = start_server("--supervise")
    directory = JournalDirectory.of_socket(str(server.socket))
    assert directory.is_kept()

    server.terminate()

    assert not directory.is_kept()


async def test_a_second_keeper_for_one_socket_is_refused(start_server: Start) -> None:
    server = start_server("--supervise")
    command = [sys.executable, "-m", "shimpy", "--socket", str(server.socket), "--supervise"]

    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr == f"shimpy: {server.socket}: another keeper is there, with a shim that serves it\n"


def test_what_is_wrong_is_said_as_without_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shimpy", "--supervise", "--socket", f"{tmp_path}/no/shim.sock"]

    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr == f"shimpy: {tmp_path}/no: no such directory for the socket\n"


def _without_keeper(pid: int) -> bytes:
    """Returns the command line of a process, nothing as long as it is a fork of the keeper."""
    said = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"" if b"keeper.main" in said else said


async def test_the_shim_has_the_options_and_the_interpreter_that_were_asked_for(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "utf8", "-P", "-m", "shimpy", "--root=/run/elsewhere", "--supervise"]
    process = subprocess.Popen(
        [*command, "--log-level=error", "--hooks=os:path", "--socket", tmp_path / "shim.sock"]
    )
    try:
        await leaks.eventually(lambda: len(leaks.children(process.pid)) == 1)
        [pid] = leaks.children(process.pid)
        # Until then it has the keeper's, or none.
        await leaks.eventually(lambda: b"\0shimpy\0--socket" in _without_keeper(pid))
        said = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    finally:
        process.kill()
        process.wait()

    assert said == [
        *(sys.executable, "-X", "utf8", "-P", "-m", "shimpy"),
        *(f"--socket={tmp_path}/shim.sock", "--runtime=runc", "--root=/run/elsewhere"),
        *("--log-level=error", "--log-format=text", "--hooks=os:path"),
    ]


async def test_the_command_line_does_the_same(tmp_path: Path) -> None:
    program = "from shimpy.cli import main; main()"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            program,
            "serve",
            "--supervise",
            "--log-level=error",
            "--socket",
            tmp_path / "s",
        ]
    )
    try:
        await leaks.eventually((tmp_path / "s").exists)
        [pid] = leaks.children(process.pid)
        said = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        os.kill(pid, signal.SIGKILL)
        await leaks.eventually(lambda: leaks.children(process.pid).keys() - {pid})
    finally:
        process.terminate()

    assert process.wait(10) == 0
    assert said[:4] == [sys.executable, "-P", "-m", "shimpy"]
