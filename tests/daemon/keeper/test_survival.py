"""What a real shim with a keeper loses when it is killed, and what a keeper that fails costs: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

import shimpy
from shimpy.client.container import Container
from tests.support import interpreters, leaks
from tests.support.rounds import rounds
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

UNPROTECTED = "the service manager does not hold what this shim would lose"


class Supervised:
    """A container of a shim that has a keeper.

    Attributes:
        server: the keeper.
        client: of the shim.
        container: the container.
        orphan: a shim that has lost its keeper, to be ended with the test.
    """

    orphan = 0

    def __init__(self, server: Server, client: shimpy.ShimClient, container: Container) -> None:
        self.server = server
        self.client = client
        self.container = container

    @property
    def shim(self) -> int:
        """The shim, 0 while there is none."""
        return next(
            (pid for pid, state in leaks.children(self.server.pid).items() if _is_shim(pid, state)), 0
        )

    async def kill(self) -> None:
        """Kills the shim, and waits for the next one."""
        before = await self._known()
        os.kill(before, signal.SIGKILL)
        await leaks.eventually(lambda: self.shim not in (0, before))

    async def _known(self) -> int:
        await leaks.eventually(lambda: self.shim)
        return self.shim


def _is_shim(pid: int, state: str) -> bool:
    try:
        return state != "Z" and b"\0shimpy\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _is_dead(pid: int) -> bool:
    return not leaks.alive(pid)


@pytest.fixture
async def supervise(
    start_server: Callable[..., Server], bundle: Callable[..., str], new_id: Callable[[], str]
) -> AsyncIterator[Callable[..., Any]]:
    """Makes them; the options are those of `Server`."""
    made: list[Supervised] = []
    async with contextlib.AsyncExitStack() as stack:

        async def start(**options: Any) -> Supervised:
            server = start_server("--supervise", **options)
            client = await stack.enter_async_context(shimpy.connect(server.socket))
            container = client.container(
                new_id(), bundle("sleep", "1000000", change=lambda spec: spec["process"].pop("rlimits"))
            )
            made.append(Supervised(server, client, await stack.enter_async_context(container)))
            return made[-1]

        yield start
    for each in made:
        if each.orphan:
            os.kill(each.orphan, signal.SIGTERM)
            await leaks.eventually(functools.partial(_is_dead, each.orphan))


async def test_commands_that_run_while_shims_die_have_their_own_results(
    supervise: Callable[..., Any],
) -> None:
    one: Supervised = await supervise()

    async def run(number: int) -> tuple[int, bytes]:
        result = await one.container.run(["sh", "-c", f"sleep 0.0{number % 9}; echo {number}; exit {number}"])
        return result.exit_status, result.stdout

    for _ in range(rounds(2, 100)):
        running = [asyncio.ensure_future(run(number)) for number in range(5)]
        for wait in (0.01, 0.1):
            await asyncio.sleep(wait)
            await one.kill()

        results = await asyncio.gather(*running)
        # What was just being started when a shim died has begun a second time.
        seen = [(status, {*output.split()}) for status, output in results]
        assert seen == [(number, {b"%d" % number}) for number in range(5)]


async def test_events_are_complete_and_in_order_across_deaths(supervise: Callable[..., Any]) -> None:
    one: Supervised = await supervise()
    async with one.client.events() as events:
        pids = []
        for number in range(rounds(2, 100)):
            pids.append(await one.client.exec(["sh", "-c", f"exit {number}"]))
            await one.kill()
        told = [await events.receive() for _ in range(2 * len(pids))]

    added = [event.pid for event in told if event.type is shimpy.EventType.EXEC_ADDED]
    ended = {event.pid: event.exit_status for event in told if event.type is shimpy.EventType.EXIT}
    assert added == pids
    assert ended == {pid: number for number, pid in enumerate(pids)}


async def test_a_terminal_that_is_opened_while_a_shim_dies_is_there(supervise: Callable[..., Any]) -> None:
    one: Supervised = await supervise()

    async def use(number: int) -> tuple[bytes, int]:
        async with one.container.pty(["sh", "-c", "read word; exit $word"]) as terminal:
            await terminal.send(b"%d\n" % number)
            return b"".join([data async for data in terminal]), await terminal.wait()

    for number in range(rounds(2, 60)):
        using = asyncio.ensure_future(use(number % 250))
        await asyncio.sleep(0.03 * (number % 5 + 1))
        await one.kill()

        assert (await using)[1] == number % 250


@pytest.mark.skipif("3.13" not in interpreters.interpreters(), reason="needs Python 3.13 beside this one")
async def test_an_upgrade_to_another_python_under_a_running_shell(
    supervise: Callable[..., Any], tmp_path: Path
) -> None:
    """The interpreter is a symbolic link, as an environment's is: it leads elsewhere when SIGHUP comes."""
    found = interpreters.interpreters()
    python = tmp_path / "python"
    python.symlink_to(found["3.12"] if "3.11" not in found else found["3.11"])
    one: Supervised = await supervise(python=str(python), environment=interpreters.environment())
    async with one.container.pty(["sh"], width=101, height=33) as terminal:
        await terminal.send(b"echo one$((1+1))\n")
        while b"one2" not in await terminal.receive():
            pass
        old = one.shim
        python.unlink()
        python.symlink_to(found["3.13"])
        one.server.process.send_signal(signal.SIGHUP)
        await leaks.eventually(lambda: not leaks.alive(old))
        await terminal.send(b"stty size; echo two$((1+1)); exit 3\n")

        shown = b"".join([data async for data in terminal])

        assert b"33 101" in shown
        assert b"two2" in shown
        assert await terminal.wait() == 3
    await leaks.eventually(lambda: one.shim)
    # The keeper's own is to be seen until what it has forked becomes the shim.
    await leaks.eventually(lambda: os.readlink(f"/proc/{one.shim}/exe").endswith("python3.13"))


async def test_a_keeper_that_is_stuck_costs_no_call(supervise: Callable[..., Any]) -> None:
    one: Supervised = await supervise()
    os.kill(one.server.pid, signal.SIGSTOP)
    try:
        codes = [(await one.container.run(["true"])).exit_status for _ in range(12)]
    finally:
        os.kill(one.server.pid, signal.SIGCONT)

    assert codes == [0] * 12
    assert one.server.stderr.count(UNPROTECTED) == 1


async def test_a_keeper_that_is_dead_costs_no_call(supervise: Callable[..., Any]) -> None:
    one: Supervised = await supervise()
    one.orphan = one.shim
    one.server.process.kill()
    one.server.process.wait()

    codes = [(await one.container.run(["true"])).exit_status for _ in range(3)]

    assert codes == [0] * 3
    assert one.server.stderr.count(UNPROTECTED) == 1


async def test_beside_a_shim_that_lost_its_keeper_another_is_refused(supervise: Callable[..., Any]) -> None:
    """Until that shim is told to end; then it takes up what that has left."""
    one: Supervised = await supervise()
    shim, socket = one.shim, str(one.server.socket)
    one.server.process.kill()
    one.server.process.wait()
    command = [sys.executable, "-m", "shimpy", "--socket", socket, "--supervise"]

    refused = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True, text=True)
    serves = (await one.container.run(["true"])).exit_status
    os.kill(shim, signal.SIGTERM)
    await leaks.eventually(lambda: not leaks.alive(shim))
    one.server.start_again()

    assert (refused.returncode, serves) == (1, 0)
    assert "already" in refused.stderr, refused.stderr
    assert (await one.container.run(["sh", "-c", "exit 5"])).exit_status == 5


async def test_a_keeper_that_is_full_costs_no_call(supervise: Callable[..., Any]) -> None:
    one: Supervised = await supervise(before=["prlimit", "--nofile=156:156"])

    pids = [await one.client.exec(["sleep", "1000000"]) for _ in range(16)]
    await one.kill()

    states = {process.pid: process.state for process in (await one.client.state()).processes}
    assert [states[pid] for pid in pids] == [shimpy.ProcessState.RUNNING] * 16
    assert one.server.stderr.count("no room for another file descriptor") == 1


async def test_no_file_descriptor_of_the_shims_gets_into_a_container(supervise: Callable[..., Any]) -> None:
    one: Supervised = await supervise()
    # The last is the directory itself.
    command = ["ls", "-1", "/proc/self/fd"]
    before = (await one.container.run(command)).stdout

    async with one.container.pty(["sh"]):
        await one.kill()
        after = (await one.container.run(command)).stdout

    assert (before, after) == (b"0\n1\n2\n3\n", b"0\n1\n2\n3\n")


def test_googles_client_goes_on_at_the_next_shim(
    foreign: tuple[ModuleType, ModuleType],
    bundle: Callable[..., str],
    new_id: Callable[[], str],
) -> None:
    """It sees UNAVAILABLE, and connects again by itself: what it was answered holds."""
    messages, stubs = foreign

    def shim() -> int:
        return next((pid for pid, state in leaks.children(server.pid).items() if _is_shim(pid, state)), 0)

    with (
        contextlib.closing(Server(["--supervise"])) as server,
        grpc.insecure_channel(f"unix:{server.socket}") as channel,
    ):
        server.wait_until_it_listens()
        stub = stubs.ShimStub(channel)

        def again(call: Callable[..., Any], request: Any) -> Any:
            """Makes a call until it is answered."""
            while True:
                with contextlib.suppress(grpc.RpcError):
                    return call(request, wait_for_ready=True, timeout=20)

        pid = stub.Create(messages.CreateRequest(id=new_id(), bundle=bundle("sleep", "1000000"))).pid
        stub.Start(messages.StartRequest())
        run = stub.Exec(messages.ExecRequest(args=["sh", "-c", "exit 9"])).pid
        for _ in range(2):
            os.kill(shim(), signal.SIGKILL)
            assert again(stub.State, messages.StateRequest()).initPid == pid
        told = []
        for event in stub.Events(messages.EventsRequest(), wait_for_ready=True, timeout=20):
            told.append((event.pid, event.exit_status))
            if told[-1] == (run, 9):
                break
        assert again(stub.Delete, messages.DeleteRequest(pid=run)).exit_status == 9
        stub.Delete(messages.DeleteRequest(pid=pid))
