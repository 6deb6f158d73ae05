"""A shim that is killed, and started again on the same socket: what the one before had is taken up."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shimpy import api
from shimpy.core.journal import JournalDirectory, read_records
from shimpy.core.journal.lines import encode
from tests.support import containers, residue
from tests.support.events import record
from tests.support.fifos import Fifo
from tests.support.holders import Holder
from tests.support.leaks import alive
from tests.support.rounds import rounds
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

SIGNALS = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
CREATED, RUNNING, PAUSED, STOPPED = (
    api.State.from_string(n) for n in ("CREATED", "RUNNING", "PAUSED", "STOPPED")
)


class Kept:
    """A container of a shim that is killed and started again.

    Attributes:
        server: the shim.
        id: the container's.
        pid: its init's.
    """

    def __init__(self, server: Server, container_id: str, bundle: str) -> None:
        self.server = server
        self.id = container_id
        self._bundle = bundle
        self.shim = server.stub()
        self.pid = 0

    async def create(self, **stdio: Any) -> None:
        self.pid = (await self.shim.create(api.CreateRequest(id=self.id, bundle=self._bundle, **stdio))).pid

    async def start(self) -> None:
        await self.shim.start(api.StartRequest())

    async def exec(self, *args: str, **stdio: Any) -> int:
        return (await self.shim.exec(api.ExecRequest(args=list(args), **stdio))).pid

    async def delete(self, pid: int) -> int:
        return (await self.shim.delete(api.DeleteRequest(pid=pid))).exit_status

    async def states(self) -> dict[int, int]:
        reply = await self.shim.state(api.StateRequest())
        return {process.pid: process.state for process in reply.processes}

    def restart(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.server.kill(number)
        self.start_again()

    def start_again(self) -> None:
        self.server.start_again()
        self.shim = self.server.stub()

    async def restart_beside(self) -> None:
        """Does what `restart` does while the test's own event loop goes on."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start_again)
        self.shim = self.server.stub()

    @property
    def journal(self) -> JournalDirectory:
        return JournalDirectory.of_socket(str(self.server.socket))


@pytest.fixture
async def kept(
    start_server: Callable[..., Server], bundle: Callable[..., str], new_id: Callable[[], str]
) -> AsyncIterator[Callable[..., Kept]]:
    made: list[Kept] = []

    def make(
        *args: str, holder: Holder | None = None, environment: dict[str, str] | None = None, **options: Any
    ) -> Kept:
        path = bundle(*args or ("sleep", "1000000"), **options)
        made.append(Kept(start_server(holder=holder, environment=environment), new_id(), path))
        return made[-1]

    yield make
    for each in made:
        if each.server.process.poll() is not None:
            continue
        if (await each.shim.state(api.StateRequest())).id:
            await each.delete(each.pid)
        assert residue.cgroups(each.id) == []


def end(pid: int) -> None:
    """Kills a process, and returns when whoever is its parent has reaped it."""
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.001)


@SIGNALS
async def test_containers_and_execs_go_on(kept: Callable[..., Kept], number: signal.Signals) -> None:
    one = kept()
    await one.create()
    await one.start()
    exec_pid = await one.exec("sleep", "1000000")

    one.restart(number)

    assert await one.states() == {one.pid: RUNNING, exec_pid: RUNNING}
    os.kill(exec_pid, signal.SIGTERM)
    assert await one.delete(exec_pid) == 128 + signal.SIGTERM
    assert await one.exec("true") > 0
    assert await one.delete(one.pid) == 128 + signal.SIGKILL
    assert containers.left(one.id) == []


async def test_created_container_is_started_by_the_next_shim(kept: Callable[..., Kept]) -> None:
    one = kept()
    await one.create()

    one.restart()
    assert await one.states() == {one.pid: CREATED}
    await one.start()

    one.restart()
    assert await one.states() == {one.pid: RUNNING}


async def test_paused_container_stays_paused(kept: Callable[..., Kept]) -> None:
    one = kept()
    await one.create()
    await one.start()
    await one.shim.pause(api.PauseRequest())

    one.restart()

    assert await one.states() == {one.pid: PAUSED}
    await one.shim.resume(api.ResumeRequest())
    assert await one.states() == {one.pid: RUNNING}


async def test_delete_of_an_exec_still_kills_all_that_it_has_started(kept: Callable[..., Kept]) -> None:
    one = kept()
    await one.create()
    await one.start()
    pid = await one.exec("sh", "-c", "setsid sleep 1000000 & exec sleep 1000000")
    while len(residue.processes(one.id)) < 3:
        await asyncio.sleep(0.01)

    one.restart()
    await one.delete(pid)

    assert residue.processes(one.id) == [one.pid]


async def test_exit_that_was_told_is_not_told_again(kept: Callable[..., Kept]) -> None:
    one = kept()
    async with record(one.shim) as before:
        await one.create()
        await one.start()
        pid = await one.exec("sh", "-c", "exit 7")
        await before.wait_for(api.EventType.EXIT, pid)
        assert before.of(pid) == [api.EventType.EXEC_ADDED, api.EventType.EXIT]
        # Who asks for the next event has been sent this one.
        await one.exec("true")
        await before.wait_for(api.EventType.EXIT, count=2)

        one.server.kill()
    one.start_again()

    async with record(one.shim) as after:
        assert pid not in [event.pid for event in after.seen]
    assert await one.delete(pid) == 7


async def test_events_that_nobody_was_sent_are_sent_in_order(kept: Callable[..., Kept]) -> None:
    one = kept()
    await one.create()
    await one.start()
    pid = await one.exec("sh", "-c", "exit 7")
    while (await one.states())[pid] != STOPPED:
        await asyncio.sleep(0.01)

    one.restart()

    async with record(one.shim) as after:
        await after.wait_for(api.EventType.EXIT, pid)
        assert [(event.type, event.pid, event.exit_status) for event in after.seen] == [
            (api.EventType.CREATE, one.pid, 0),
            (api.EventType.START, one.pid, 0),
            (api.EventType.EXEC_ADDED, pid, 0),
            (api.EventType.EXIT, pid, 7),
        ]


async def test_exit_status_of_who_dies_without_a_shim_is_lost_with_a_warning(
    kept: Callable[..., Kept],
) -> None:
    one = kept()
    await one.create()
    await one.start()
    pid = await one.exec("sleep", "1000000")
    one.server.kill()
    end(pid)

    one.start_again()

    assert await one.states() == {one.pid: RUNNING, pid: STOPPED}
    assert await one.delete(pid) == 255
    assert one.server.stderr.count(f"process {pid} of container {one.id} has ended while") == 1


async def test_status_of_who_dies_after_it_is_taken_up_is_its_own(kept: Callable[..., Kept]) -> None:
    one = kept("sh", "-c", "trap 'exit 42' TERM; while :; do sleep 0.01; done")
    await one.create()
    await one.start()
    one.restart()

    async with record(one.shim) as events:
        await asyncio.sleep(0.1)
        os.kill(one.pid, signal.SIGTERM)
        exit_ = await events.wait_for(api.EventType.EXIT, one.pid)

    assert exit_.exit_status == 42
    assert await one.delete(one.pid) == 42


async def test_output_goes_on(kept: Callable[..., Kept], fifo: Callable[[str], Fifo]) -> None:
    out = fifo("out")
    one = kept("sh", "-c", "while ! [ -e /tmp/go ]; do sleep 0.01; done; echo still; exec sleep 1000000")
    await one.create(stdout=str(out))
    await one.start()
    one.restart()

    await one.exec("touch", "/tmp/go")

    assert await out.read_some(6) == b"still\n"


@pytest.fixture
def holder() -> Iterator[Holder]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        holder = Holder(Path(directory))
        yield holder
        holder.close()


async def test_exit_status_of_who_dies_without_a_shim_is_true(
    kept: Callable[..., Kept], holder: Holder
) -> None:
    one = kept(holder=holder)
    await one.create()
    await one.start()
    pid = await one.exec("sh", "-c", "trap 'exit 42' TERM; while :; do sleep 0.01; done")
    await asyncio.sleep(0.2)
    one.server.kill()
    os.kill(pid, signal.SIGTERM)
    while alive(pid):
        time.sleep(0.001)

    one.start_again()

    assert await one.delete(pid) == 42
    end(one.pid)
    async with record(one.shim) as events:
        assert (await events.wait_for(api.EventType.EXIT, one.pid)).exit_status == 137


async def test_nothing_stays_in_the_store(
    kept: Callable[..., Kept], holder: Holder, fifo: Callable[[str], Fifo]
) -> None:
    one = kept(holder=holder)
    await one.create()
    await one.start()
    streams = {name: str(fifo(name)) for name in ("stdin", "stdout")}
    pid = await one.exec("cat", **streams)
    one.restart()
    holder.settle()
    assert sorted(name.split("-")[0] for name in holder.fds) == ["fifo", "in", "listen", "pid", "pid", "pipe"]

    await one.delete(pid)
    await one.delete(one.pid)
    holder.settle()

    assert [name.split("-")[0] for name in holder.fds] == ["listen"]
    one.server.kill(signal.SIGTERM)
    holder.settle()
    assert holder.fds == {}


async def test_stdin_and_output_are_the_same_across_many_kills(
    kept: Callable[..., Kept], holder: Holder, fifo: Callable[[str], Fifo]
) -> None:
    one = kept(holder=holder)
    await one.create()
    await one.start()
    source, sink = fifo("stdin"), fifo("stdout")
    pid = await one.exec("cat", stdin=str(source), stdout=str(sink))
    data = os.urandom(rounds(1 << 20, 1 << 25))
    reading = sink.read()
    writing = source.write(data)

    for _ in range(rounds(3, 25)):
        await asyncio.sleep(0.05)
        await one.restart_beside()

    assert await writing == len(data)
    assert hashlib.sha256(await reading).digest() == hashlib.sha256(data).digest()
    assert await one.delete(pid) == 0


async def test_terminal_is_the_same_across_many_kills(
    kept: Callable[..., Kept], holder: Holder, fifo: Callable[[str], Fifo]
) -> None:
    one = kept(holder=holder)
    await one.create()
    await one.start()
    source, sink = fifo("stdin"), fifo("stdout")
    script = (
        "stty raw -echo; stty size; i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; stty size; cat"
    )
    reading = sink.read_some(2 * len("33 111\n") + sum(len(f"{i}\n") for i in range(20000)) + 5)
    pid = await one.exec(
        "sh", "-c", f"sleep 0.3; {script}", stdin=str(source), stdout=str(sink), terminal=True
    )
    await one.shim.pty(api.PtyRequest(pid=pid, width=111, height=33))

    for _ in range(rounds(3, 25)):
        await asyncio.sleep(0.1)
        await one.restart_beside()
    with open(source, "wb", buffering=0) as terminal:
        await asyncio.sleep(0.1)
        terminal.write(b"typed")
        shown = await reading

    assert shown == b"33 111\n" + b"".join(b"%d\n" % i for i in range(20000)) + b"33 111\n" + b"typed"
    await one.delete(pid)


def rewrite(one: Kept, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes each line of the journal of a shim that has ended."""
    path = Path(one.journal.journal)
    records = [dict(record) for record in read_records(path.read_bytes(), "journal")]
    for each in records:
        change(each)
    path.write_bytes(b"".join(map(encode, records)))


async def test_another_process_that_has_the_pid_is_left_alone(kept: Callable[..., Kept]) -> None:
    one = kept()
    await one.create()
    await one.start()
    pid = await one.exec("sleep", "1000000")
    one.server.kill()
    end(pid)
    with subprocess.Popen(["sleep", "1000000"]) as decoy:

        def give_to_decoy(line: dict[str, Any]) -> None:
            if line.get("pid") == pid:
                line["pid"], line["exec"] = decoy.pid, str(decoy.pid)

        rewrite(one, give_to_decoy)
        one.start_again()

        assert await one.delete(decoy.pid) == 255
        assert decoy.poll() is None
        decoy.kill()


async def test_journal_of_another_boot_is_begun_anew(kept: Callable[..., Kept]) -> None:
    one = kept()
    await one.create()
    one.server.kill()
    rewrite(one, lambda line: line.update(boot="another") if "boot" in line else None)

    one.start_again()

    assert await one.states() == {}
    assert alive(one.pid)
    containers.remove(one.id)


async def test_journal_of_a_newer_shim_is_refused(kept: Callable[..., Kept]) -> None:
    one = kept()
    await one.create()
    one.server.kill()
    rewrite(one, lambda line: line.update(journal=1000) if "journal" in line else None)

    one.server.start_again(listens=False)

    assert await asyncio.to_thread(one.server.process.wait, 20) == 1
    assert (
        "was written by a newer shimpy (format 1000; this one knows 1): start that one" in one.server.stderr
    )
    assert alive(one.pid)
    containers.remove(one.id)
    one.journal.remove()


async def test_oom_kill_while_there_is_no_shim_is_told_once(kept: Callable[..., Kept]) -> None:
    one = kept(memory=16 << 20)
    await one.create()
    await one.start()
    eat = "until [ -e /tmp/go ]; do sleep 0.01; done; exec tail /dev/zero"
    async with record(one.shim) as events:
        first = await one.exec("sh", "-c", "exec tail /dev/zero")
        await events.wait_for(api.EventType.OOM)
        await events.wait_for(api.EventType.EXIT, first)
        second = await one.exec("sh", "-c", eat)
        await events.wait_for(api.EventType.EXEC_ADDED, second)
    one.server.kill()
    subprocess.run(["runc", "exec", one.id, "touch", "/tmp/go"], check=True)
    while alive(second):
        time.sleep(0.001)

    one.start_again()

    async with record(one.shim) as events:
        await events.wait_for(api.EventType.EXIT, second)
        assert [event.type == api.EventType.OOM for event in events.seen if event.pid != first].count(
            True
        ) == 1


async def test_no_process_gets_a_file_descriptor_of_the_shim(
    kept: Callable[..., Kept], holder: Holder, fifo: Callable[[str], Fifo]
) -> None:
    async def descriptors(name: str) -> bytes:
        reading = (out := fifo(name)).read()
        pid = await one.exec("sh", "-c", "echo /proc/self/fd/*", stdout=str(out))
        shown = await reading
        await one.delete(pid)
        return shown

    one = kept(holder=holder)
    await one.create()
    await one.start()
    before = await descriptors("before")
    await one.exec("cat", stdin=str(fifo("in")), stdout=str(fifo("tty")), terminal=True)

    one.restart()

    assert await descriptors("after") == before


async def test_no_call_waits_for_a_holder_that_is_stuck(
    kept: Callable[..., Kept],
) -> None:
    directory = Path(tempfile.mkdtemp(dir="/tmp")) / "systemd"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(directory / "notify"))
        one = kept(environment={"NOTIFY_SOCKET": str(directory / "notify")})
        await one.create()
        await one.start()

        pids = [await one.exec("true") for _ in range(10)]

        assert [await one.delete(pid) for pid in pids] == [0] * 10
        assert one.server.stderr.count("does not hold what this shim would lose") == 1
    shutil.rmtree(directory.parent)
