"""Terminals through the service: their size, what is typed, and that nothing is lost at the end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from shimpy.api import PtyRequest, User
from shimpy.core.stdio.terminal import TerminalIO
from tests.support.fifos import Fifo
from tests.support.kinds import RUNNING, STOPPED
from tests.support.leaks import descriptors, eventually, opened_since, threads
from tests.support.lives import KILLED, Life
from tests.support.residue import tasks
from tests.support.rounds import rounds

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

Prepare = Callable[..., Life]
MakeFifo = Callable[[str], Fifo]
SLEEP = ("sleep", "1000")
FIFO_SIZE = 65536


async def running(live: Prepare, **options: Any) -> Life:
    life = live(*SLEEP, **options)
    await life.create()
    await life.start()
    return life


class Screen:
    """What a terminal shows, as it comes."""

    def __init__(self, fifo: Fifo) -> None:
        self.path = str(fifo)
        self.text = b""
        self._descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        try:
            self.text += os.read(self._descriptor, 65536)
        except BlockingIOError:
            return

    async def shows(self, text: bytes) -> None:
        await eventually(lambda: text in self.text)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)


async def test_the_size_is_right_on_the_first_try(live: Prepare, fifo: MakeFifo) -> None:
    """Set between Create and Start, it is what the process finds, at once and each time."""
    output = fifo("output")
    for number in range(rounds(5, 200)):
        life = live("stty", "size", terminal=True)
        await life.create(terminal=True, stdout=str(output))
        await life.shim.pty(PtyRequest(pid=life.pid, width=100 + number, height=30 + number))
        reading = output.read()
        await life.start()
        assert await reading == b"%d %d\r\n" % (30 + number, 100 + number)
        assert await life.exit_of(life.pid) == 0
        assert await life.delete() == 0
        life.recorder.seen.clear()


@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_a_new_size_is_told_by_sigwinch(live: Prepare, fifo: MakeFifo, whose: str) -> None:
    screen = Screen(fifo("output"))
    program = ("sh", "-c", "trap 'stty size; exit 3' WINCH; echo ready; sleep 1000 & wait")
    if whose == "init":
        life = live(*program, terminal=True)
        await life.create(terminal=True, stdout=screen.path)
        await life.start()
        pid = life.pid
    else:
        life = await running(live)
        pid = await life.exec(*program, terminal=True, stdout=screen.path)
    await screen.shows(b"ready")
    await life.shim.pty(PtyRequest(pid=pid, width=123, height=45))
    assert await life.exit_of(pid) == 3
    await screen.shows(b"45 123\r\n")
    assert await life.delete(pid) == 3
    screen.close()


@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_every_line_arrives(live: Prepare, fifo: MakeFifo, whose: str) -> None:
    """60,000 of them, of a program that is dead before the reader has seen the first thousand."""
    output = fifo("output")
    reading = output.read()
    if whose == "init":
        life = live("seq", "60000", terminal=True)
        await life.create(terminal=True, stdout=str(output))
        await life.start()
        pid = life.pid
    else:
        life = await running(live)
        pid = await life.exec("seq", "60000", terminal=True, stdout=str(output))
    assert await reading == b"".join(b"%d\r\n" % number for number in range(1, 60001))
    assert await life.exit_of(pid) == 0
    assert await life.delete(pid) == 0


async def test_a_reader_that_comes_after_the_exit(live: Prepare, fifo: MakeFifo) -> None:
    """What waits in the terminal and the FIFO is there for it, and Delete does not wait for ever."""
    life = await running(live)
    output = fifo("output")
    pid = await life.exec("seq", "100", terminal=True, stdout=str(output))
    assert await life.exit_of(pid) == 0
    async with asyncio.timeout(15):
        assert await output.read() == b"".join(b"%d\r\n" % number for number in range(1, 101))
    assert await life.delete(pid) == 0


async def test_output_that_nobody_reads_holds_up_nobody(live: Prepare, fifo: MakeFifo) -> None:
    """The process waits; the shim does not, nor does Delete for more than two seconds."""
    life = await running(live)
    pid = await life.exec("seq", "1000000", terminal=True, stdout=str(fifo("output")))
    assert (await life.run("echo", "other")).stdout == "other\n"
    await life.shim.pty(PtyRequest(pid=pid, width=80, height=24))
    assert (await life.states())[pid] is RUNNING
    async with asyncio.timeout(15):
        assert await life.delete(pid) == KILLED


@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_delete_waits_for_a_slow_reader(
    live: Prepare, fifo: MakeFifo, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit the FIFO is in the shim's hands when the process has ended."""
    drain = TerminalIO.drain
    # Not the 2 s of the contract, on a busy machine.
    monkeypatch.setattr(TerminalIO, "drain", lambda self, _timeout: drain(self, 60))
    output = fifo("output")
    program = ("sh", "-c", f"head -c {FIFO_SIZE + 1000} /dev/zero | tr '\\0' x")
    if whose == "init":
        life = live(*program, terminal=True)
        await life.create(terminal=True, stdout=str(output))
        await life.start()
        pid = life.pid
    else:
        life = await running(live)
        pid = await life.exec(*program, terminal=True, stdout=str(output))
    assert await life.exit_of(pid) == 0
    deleting = asyncio.ensure_future(life.delete(pid))
    await asyncio.wait([deleting], timeout=0.1)
    assert not deleting.done()
    assert await output.read() == b"x" * (FIFO_SIZE + 1000)
    assert await deleting == 0


async def test_a_terminal_that_is_closed_and_opened_again(live: Prepare, fifo: MakeFifo) -> None:
    """EIO on the master is not the end while the process lives."""
    screen = Screen(fifo("output"))
    script = "echo one; exec 0<&- 1>&- 2>&-; sleep 1; echo hi >/dev/console; exec sleep 1000"
    life = live("sh", "-c", script, terminal=True)
    await life.create(terminal=True, stdout=screen.path)
    await life.start()
    await screen.shows(b"one\r\nhi\r\n")
    assert await life.state() is RUNNING
    assert await life.delete() == KILLED
    screen.close()


@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_an_interactive_shell(live: Prepare, fifo: MakeFifo, whose: str) -> None:
    screen, keyboard = Screen(fifo("output")), fifo("keyboard")
    fields = {"stdin": str(keyboard), "stdout": screen.path, "terminal": True}
    if whose == "init":
        life = live("sh", terminal=True)
        await life.create(**fields)
        await life.start()
        pid = life.pid
    else:
        life = await running(live)
        pid = await life.exec("sh", **fields)
    await screen.shows(b"# ")
    # Whoever types may go and come back: a terminal has no end of input.
    assert await keyboard.write(b"echo $((6 * 7))\n") > 0
    await screen.shows(b"\n42\r\n")
    # What is interrupted has to be a program that runs, not the shell between two.
    assert await keyboard.write(b"tty; sh -c 'echo $((7 * 9)); exec sleep 1000'\n") > 0
    await screen.shows(b"/dev/")
    await screen.shows(b"\n63\r\n")
    assert await keyboard.write(b"\x03") > 0
    assert await keyboard.write(b"echo again $?\n") > 0
    await screen.shows(b"again 130")
    assert await keyboard.write(b"exit 5\n") > 0
    assert await life.exit_of(pid) == 5
    assert await life.delete(pid) == 5
    screen.close()


async def test_it_is_the_controlling_terminal(live: Prepare, fifo: MakeFifo) -> None:
    """Of a user, too, who may open it by each of its names."""
    life = await running(live)
    output = fifo("output")
    reading = output.read()
    script = "for t in /dev/tty /dev/stdout $(tty); do id -u >$t; done; [ -t 0 ] && [ -t 1 ] && [ -t 2 ]"
    pid = await life.exec(
        "sh", "-c", script, terminal=True, stdout=str(output), user=User(uid=1000, gid=1000)
    )
    assert await life.exit_of(pid) == 0
    assert await reading == b"1000\r\n" * 3
    assert await life.delete(pid) == 0


async def test_stderr_is_not_used(live: Prepare, fifo: MakeFifo) -> None:
    """What is written to it is shown with the rest, and its path is not even looked at."""
    life = await running(live)
    output = fifo("output")
    reading = output.read()
    pid = await life.exec(
        "sh", "-c", "echo 1; echo 2 >&2", terminal=True, stdout=str(output), stderr="/no/such/file"
    )
    assert await reading == b"1\r\n2\r\n"
    assert await life.exit_of(pid) == 0


async def test_a_terminal_that_nobody_sees(live: Prepare) -> None:
    """Without any path its output goes to /dev/null, and it is a terminal all the same."""
    life = await running(live)
    pid = await life.exec("sh", "-c", "tty && seq 10000 && exit 9", terminal=True)
    assert await life.exit_of(pid) == 9
    assert await life.delete(pid) == 9


async def test_a_child_that_keeps_the_terminal(live: Prepare, fifo: MakeFifo) -> None:
    """It delays neither EXIT nor Delete, which ends it and what the reader sees."""
    life = await running(live)
    output = fifo("output")
    reading = output.read()
    script = "trap '' HUP; (trap '' HUP; exec sleep 1000) & echo up; exit 6"
    pid = await life.exec("sh", "-c", script, terminal=True, stdout=str(output))
    async with asyncio.timeout(15):
        assert await life.exit_of(pid) == 6
        assert (await life.states())[pid] is STOPPED
        assert await life.delete(pid) == 6
        assert await reading == b"up\r\n"
    await eventually(lambda: _processes(life) == [life.pid])


def _processes(life: Life) -> list[int]:
    from tests.support import residue

    return residue.processes(life.id)


async def test_parallel_terminals_are_apart(live: Prepare, fifo: MakeFifo) -> None:
    life = await running(live)
    fifos = [fifo(f"output{number}") for number in range(10)]
    reading = [each.read() for each in fifos]
    pids = await asyncio.gather(
        *(
            life.exec("sh", "-c", f"echo {number}; exit {number}", terminal=True, stdout=str(each))
            for number, each in enumerate(fifos)
        )
    )
    for number, pid in enumerate(pids):
        assert await life.exit_of(pid) == number
        assert await reading[number] == b"%d\r\n" % number
        assert await life.delete(pid) == number


async def test_terminals_leave_nothing(live: Prepare, fifo: MakeFifo) -> None:
    """No file descriptor, no thread, no task and, in the container, no pty."""
    life = await running(live)
    output, keyboard = fifo("output"), fifo("keyboard")

    async def begin() -> int:
        return await life.exec("true", terminal=True, stdin=str(keyboard), stdout=str(output))

    async def one() -> None:
        pid = await begin()
        if random.random() < 0.5:
            await life.exit_of(pid)
        await life.delete(pid)
        life.recorder.seen.clear()

    # The inotify of all FIFOs comes with the first output that has ended, unless Delete is quicker.
    first = await begin()
    await eventually(lambda: "anon_inode:inotify" in descriptors().values())
    await life.delete(first)
    terminals = (await life.run("ls", "/dev/pts")).stdout
    opened, before = descriptors(), (threads(), tasks())
    for _ in range(rounds(5, 200)):
        await one()
    await eventually(lambda: not opened_since(opened) and threads() <= before[0] and tasks() <= before[1])
    assert (await life.run("ls", "/dev/pts")).stdout == terminals


async def test_a_terminal_killed_by_delete(live: Prepare, fifo: MakeFifo) -> None:
    """What it has said is not lost."""
    life = await running(live)
    output = fifo("output")
    reading = output.read()
    pid = await life.exec("sh", "-c", "seq 100; kill -STOP $$", terminal=True, stdout=str(output))
    await eventually(lambda: _stopped(pid))
    assert await life.delete(pid) == KILLED
    assert await reading == b"".join(b"%d\r\n" % number for number in range(1, 101))


def _stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2].startswith("T")


async def test_a_hang_up_of_init_ends_its_terminal(live: Prepare, fifo: MakeFifo) -> None:
    output = fifo("output")
    reading = output.read()
    life = live("sh", "-c", "echo up; exec sleep 1000", terminal=True)
    await life.create(terminal=True, stdout=str(output))
    await life.start()
    os.kill(life.pid, signal.SIGKILL)
    assert await life.exit_of(life.pid) == KILLED
    assert await reading in (b"up\r\n", b"")
    assert await life.delete() == KILLED
