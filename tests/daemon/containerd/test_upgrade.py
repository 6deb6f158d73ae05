"""A shim under containerd that is upgraded: its process becomes another program, and loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.containerd import Containerd, run_arguments
from tests.support.interpreters import interpreters
from tests.support.leaks import children, descriptors, eventually
from tests.support.time_scale import scaled
from tests.support.upgrades import Installed

pytestmark = pytest.mark.anyio

NewId = Callable[[], str]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def installed(containerd: Containerd, tmp_path: Path) -> Iterator[Installed]:
    installed = Installed(containerd, tmp_path)
    yield installed
    installed.restore()


@pytest.fixture
def shim(containerd: Containerd, running: str) -> int:
    """The process that serves `running`."""
    return containerd.shim_pid(running)


@pytest.fixture
def start(containerd: Containerd) -> Iterator[Start]:
    """Starts calls of ctr, with pipes."""
    made: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        made.append(
            subprocess.Popen(
                containerd.command(*arguments), stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT
            )
        )
        return made[-1]

    yield start
    for each in made:
        each.kill()
        each.communicate()


def line_of(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def tell(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


async def test_it_is_the_same_process_with_the_same_containers(
    containerd: Containerd, running: str, shim: int, installed: Installed
) -> None:
    await installed.upgrade(shim)

    assert containerd.shim_pid(running) == shim
    assert containerd.status(running) == "RUNNING"
    done = containerd.ctr(
        "tasks", "exec", "--exec-id", "one", running, "sh", "-c", "echo x; exit 3", check=False
    )
    assert (done.returncode, done.stdout) == (3, b"x\n")
    containerd.ctr("tasks", "kill", "--signal", "SIGKILL", running)
    await eventually(lambda: containerd.status(running) == "STOPPED")
    assert b"137" in containerd.ctr("tasks", "delete", running).stderr


async def test_who_waits_is_answered(
    containerd: Containerd, rootfs: Path, new_id: NewId, installed: Installed, start: Start
) -> None:
    """`ctr run` has called Wait before the upgrade, and hears of the end after it."""
    name = new_id()
    script = 'echo begun; while read x; do echo "got $x"; done; exit 7'
    client = start(*run_arguments(rootfs=rootfs, name=name, command=["sh", "-c", script]))
    assert line_of(client) == b"begun\n"
    shim = containerd.shim_pid(name)

    for number in range(2):
        await installed.upgrade(shim)
        tell(client, b"%d\n" % number)
        assert line_of(client) == b"got %d\n" % number

    assert client.communicate(timeout=scaled(30))[0] == b""
    assert client.returncode == 7


async def test_what_happens_meanwhile_is_told(
    containerd: Containerd, rootfs: Path, new_id: NewId, installed: Installed, start: Start, tmp_path: Path
) -> None:
    """Between the two programs a container ends, an exec ends, and containerd asks for something."""
    name = new_id()
    script = "trap 'exit %d' TERM; echo begun; while true; do sleep 0.01; done"
    client = start(*run_arguments(rootfs=rootfs, name=name, command=["sh", "-c", script % 7]))
    assert line_of(client) == b"begun\n"
    shim = containerd.shim_pid(name)
    init = int((containerd.bundle(name) / "init.pid").read_text())
    execing = start("tasks", "exec", "--exec-id", "one", name, "sh", "-c", script % 5)
    assert line_of(execing) == b"begun\n"
    # The runtime's commands that have begun both end a little later.
    await eventually(lambda: len(children(shim)) == 2)
    (process,) = set(children(shim)) - {init}

    with containerd.events(tmp_path / "events") as told:
        with installed.held_up(shim):
            asking = start("tasks", "ps", name)
            os.kill(process, signal.SIGTERM)
            await eventually(lambda: children(shim)[process] == "Z")
            # It is not a zombie before those that it has in its pid namespace have been reaped.
            os.kill(init, signal.SIGTERM)
            await eventually(lambda: descriptors(init) == {})
        events = told(until="/tasks/delete", of=name)

    assert (execing.wait(scaled(30)), client.wait(scaled(30))) == (5, 7)
    asking.wait(scaled(30))
    exits = [(event["id"], event["exit_status"]) for topic, event in events if topic == "/tasks/exit"]
    assert exits == [("one", 5), (name, 7)]


async def test_a_container_that_ends_meanwhile_has_its_exit_status(
    containerd: Containerd, rootfs: Path, new_id: NewId, installed: Installed, start: Start
) -> None:
    name = new_id()
    script = "trap 'exit 7' TERM; echo begun; while true; do sleep 0.01; done"
    client = start(*run_arguments(rootfs=rootfs, name=name, command=["sh", "-c", script]))
    assert line_of(client) == b"begun\n"
    shim = containerd.shim_pid(name)
    with installed.held_up(shim):
        (init,) = children(shim)
        os.kill(init, signal.SIGTERM)
        await eventually(lambda: children(shim) == {init: "Z"})

    assert client.wait(scaled(30)) == 7


async def test_a_terminal_goes_on(
    containerd: Containerd,
    rootfs: Path,
    new_id: NewId,
    installed: Installed,
    ctr_terminal: Callable[..., pexpect.spawn[str]],
) -> None:
    """With its size, and what is typed meanwhile."""
    name = new_id()
    script = 'echo begun; while read x; do echo "got:$x:"; stty size; done; exit 6'
    client = ctr_terminal(
        *run_arguments("--rm", "-t", rootfs=rootfs, name=name, command=["sh", "-c", script])
    )
    client.expect("begun")

    with installed.held_up(containerd.shim_pid(name)):
        client.sendline("meanwhile")
    client.expect("got:meanwhile:")
    client.expect("33 77")
    client.setwinsize(40, 90)
    client.sendline("after")
    client.expect("got:after:")
    client.expect("40 90")
    client.sendeof()
    client.expect(pexpect.EOF)
    client.wait()

    assert client.exitstatus == 6


async def test_an_execs_pipes_go_on(
    containerd: Containerd, running: str, shim: int, installed: Installed, start: Start
) -> None:
    """Its output goes through a pipe of the shim's, its input too, which ends when the client's does."""
    client = start("tasks", "exec", "--exec-id", "one", running, "sh", "-c", "cat; exit 9")
    for number in range(3):
        tell(client, b"%d\n" % number)
        assert line_of(client) == b"%d\n" % number
        await installed.upgrade(shim)

    assert client.communicate(b"last\n", timeout=scaled(30))[0] == b"last\n"
    assert client.returncode == 9


async def test_much_output_comes_whole_over_many_upgrades(
    containerd: Containerd, running: str, shim: int, installed: Installed, start: Start
) -> None:
    script = 'for i in $(seq 20000); do echo "$i 0123456789012345678901234567890123456789"; done'
    client = start("tasks", "exec", "--exec-id", "one", running, "sh", "-c", script)
    reading = asyncio.create_task(asyncio.to_thread(client.communicate))
    for _ in range(5):
        await installed.upgrade(shim)
    output, _ = await reading

    assert [int(line.split()[0]) for line in output.splitlines()] == list(range(1, 20001))
    assert client.returncode == 0


@pytest.mark.timeout(180)
async def test_twenty_upgrades_while_execs_run(
    containerd: Containerd, running: str, shim: int, installed: Installed
) -> None:
    wrong: list[tuple[int, bytes, bytes]] = []
    over = False
    count = 0

    def execs(number: int) -> None:
        nonlocal count
        while not over:
            count += 1
            done = containerd.ctr(
                "tasks",
                "exec",
                "--exec-id",
                f"{number}-{count}",
                running,
                "sh",
                "-c",
                "echo x; exit 5",
                check=False,
            )
            if (done.returncode, done.stdout) != (5, b"x\n"):
                wrong.append((done.returncode, done.stdout, done.stderr))

    running_execs = [asyncio.create_task(asyncio.to_thread(execs, number)) for number in range(2)]
    for _ in range(20):
        await installed.upgrade(shim)
    over = True
    await asyncio.wait(running_execs)

    assert wrong == []
    assert containerd.status(running) == "RUNNING"
    # Nothing piles up.
    assert len(descriptors(shim)) < 30


@pytest.mark.parametrize("version", sorted(interpreters()))
async def test_another_interpreter(
    containerd: Containerd, running: str, shim: int, installed: Installed, version: str
) -> None:
    import sys

    installed.change(os.path.abspath(sys.executable), interpreters()[version])
    await installed.upgrade(shim)

    assert f"python{version}" in os.readlink(f"/proc/{shim}/exe")
    assert containerd.ctr("tasks", "exec", "--exec-id", "one", running, "echo", "x").stdout == b"x\n"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("import sys\n", "import no_such_module\n", "No module named 'no_such_module'"),
        ("exec /", "exec /no-such-directory/", "not found"),
        (
            "import sys\n",
            "import sys; import shimpy.core.journal.lines as lines; lines.FORMAT = 0\n",
            "newer",
        ),
    ],
)
async def test_a_program_that_cannot_go_on_is_not_become(
    containerd: Containerd, running: str, shim: int, installed: Installed, old: str, new: str, why: str
) -> None:
    if "shimpy" in new:
        new = f"import sys\nsys.path += {[str(Path(__file__).parents[3])]!r}\n" + new
    installed.change(old, new)

    assert why in await installed.refused(shim)
    assert containerd.status(running) == "RUNNING"
    assert containerd.ctr("tasks", "exec", "--exec-id", "one", running, "echo", "x").stdout == b"x\n"


async def test_a_paused_container_stays_paused(
    containerd: Containerd, running: str, shim: int, installed: Installed
) -> None:
    containerd.ctr("tasks", "pause", running)
    await installed.upgrade(shim)
    paused = containerd.status(running)
    containerd.ctr("tasks", "resume", running)

    assert (paused, containerd.status(running)) == ("PAUSED", "RUNNING")


async def test_a_pod_goes_on(
    containerd: Containerd, rootfs: Path, new_id: NewId, installed: Installed
) -> None:
    """Its containers do, each can be deleted by itself, and another comes in."""
    pod = [new_id() for _ in range(4)]

    def run(name: str) -> None:
        group = f"io.containerd.runc.v2.group={pod[0]}"
        containerd.run("-d", "--annotation", group, rootfs=rootfs, name=name, command=["sleep", "1000000"])

    for name in pod[:3]:
        run(name)
    shim = containerd.shim_pid(pod[0])
    await installed.upgrade(shim)
    containerd.ctr("tasks", "kill", "--signal", "SIGKILL", pod[1])
    await eventually(lambda: containerd.status(pod[1]) == "STOPPED")
    containerd.ctr("tasks", "delete", pod[1])
    run(pod[3])

    assert [containerd.status(name) for name in pod] == ["RUNNING", "", "RUNNING", "RUNNING"]
    assert int((containerd.bundle(pod[3]) / "init.pid").read_text()) in children(shim)


async def test_a_log_program_goes_on(
    containerd: Containerd, rootfs: Path, new_id: NewId, installed: Installed, tmp_path: Path
) -> None:
    name = new_id()
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nexec 5>&-; cat <&3 >{tmp_path}/out; echo end >>{tmp_path}/out\n")
    program.chmod(0o755)
    script = "echo before; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo after"
    mount = f"type=bind,src={tmp_path},dst=/tmp,options=rbind"
    options = ("-d", "--log-uri", f"binary://{program}", "--mount", mount)
    containerd.run(*options, rootfs=rootfs, name=name, command=["sh", "-c", script])
    await installed.upgrade(containerd.shim_pid(name))
    (tmp_path / "go").touch()
    await eventually(lambda: containerd.status(name) == "STOPPED")
    containerd.ctr("tasks", "delete", name)

    await eventually(lambda: (tmp_path / "out").read_text() == "before\nafter\nend\n")


async def test_no_container_gets_a_file_descriptor_of_the_shims(
    containerd: Containerd, running: str, shim: int, installed: Installed
) -> None:
    command = ["ls", "/proc/self/fd"]
    before = containerd.ctr("tasks", "exec", "--exec-id", "one", running, *command).stdout
    await installed.upgrade(shim)
    after = containerd.ctr("tasks", "exec", "--exec-id", "two", running, *command).stdout

    assert after == before
    init = int((containerd.bundle(running) / "init.pid").read_text())
    assert sorted(descriptors(init)) == [0, 1, 2]


async def test_a_shim_that_is_told_to_end_meanwhile_ends(
    containerd: Containerd, running: str, shim: int, installed: Installed
) -> None:
    with installed.held_up(shim):
        os.kill(shim, signal.SIGTERM)

    await eventually(lambda: not Path(f"/proc/{shim}").exists(), within=20)
    await eventually(lambda: containerd.tasks() == [], within=20)
