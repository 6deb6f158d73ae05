"""`ctr run`, with shimpy as containerd's runtime."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from tests.support.containerd import Containerd, run_arguments
from tests.support.containers import cgroups
from tests.support.leaks import eventually
from tests.support.time_scale import scaled

pytestmark = pytest.mark.anyio

NewId = Callable[[], str]


def test_output_and_exit_status(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    done = containerd.run(
        "--rm",
        rootfs=rootfs,
        name=new_id(),
        command=["sh", "-c", "echo out; echo err >&2; exit 7"],
        check=False,
    )

    assert (done.returncode, done.stdout) == (7, b"out\n")
    assert b"err\n" in done.stderr


def test_all_of_much_output_comes(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    done = containerd.run(
        "--rm", rootfs=rootfs, name=new_id(), command=["sh", "-c", "yes 0123456789abcde | head -c 3000000"]
    )

    assert len(done.stdout) == 3_000_000


def test_input(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    # Its end is another matter: ctr may come to it before it can tell anybody, whatever the shim.
    arguments = run_arguments("--rm", rootfs=rootfs, name=new_id(), command=["head", "-n1"])

    assert containerd.ctr(*arguments, stdin=b"typed\n").stdout == b"typed\n"


def test_nothing_is_left(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    name = new_id()
    containerd.run("--rm", rootfs=rootfs, name=name, command=["true"])

    assert containerd.tasks() == []
    assert cgroups(name) == []
    assert os.listdir(f"/run/containerd/runc/{containerd.namespace}") == []
    assert not (
        containerd.folder / "state" / "io.containerd.runtime.v2.task" / containerd.namespace / name
    ).exists()
    with pytest.raises(AssertionError, match="no shim"):
        containerd.shim_pid(name)


def test_a_program_that_is_not_there(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    name = new_id()
    done = containerd.run("--rm", rootfs=rootfs, name=name, command=["no-such-program"], check=False)

    assert done.returncode != 0
    assert b"no-such-program" in done.stderr
    assert containerd.tasks() == []
    assert cgroups(name) == []


def test_in_the_background(containerd: Containerd, running: str) -> None:
    assert containerd.status(running) == "RUNNING"


def test_a_second_of_the_same_name_is_refused(containerd: Containerd, rootfs: Path, running: str) -> None:
    done = containerd.run("-d", rootfs=rootfs, name=running, command=["true"], check=False)

    assert done.returncode != 0
    assert b"already exists" in done.stderr
    assert containerd.status(running) == "RUNNING"


async def test_its_pid(containerd: Containerd, rootfs: Path, new_id: NewId, tmp_path: Path) -> None:
    containerd.run(
        "-d", "--pid-file", str(tmp_path / "pid"), rootfs=rootfs, name=new_id(), command=["sleep", "1000"]
    )

    comm = Path(f"/proc/{(tmp_path / 'pid').read_text()}/comm")
    # A start has succeeded when runc's init is about to become the program.
    await eventually(lambda: comm.read_text() == "sleep\n")


async def test_output_to_a_file(containerd: Containerd, rootfs: Path, new_id: NewId, tmp_path: Path) -> None:
    name = new_id()
    log = tmp_path / "new" / "log"
    containerd.run("-d", "--log-uri", f"file://{log}", rootfs=rootfs, name=name, command=["echo", "written"])
    await eventually(lambda: containerd.status(name) == "STOPPED")
    containerd.ctr("tasks", "delete", name)

    assert log.read_text() == "written\n"


@pytest.fixture
def terminal(
    ctr_terminal: Callable[..., pexpect.spawn[str]], rootfs: Path, new_id: NewId
) -> Callable[..., pexpect.spawn[str]]:
    """Runs containers with a terminal."""
    return lambda *command: ctr_terminal(
        *run_arguments("--rm", "-t", rootfs=rootfs, name=new_id(), command=command)
    )


def ended(terminal: pexpect.spawn[str]) -> int | None:
    """Returns the exit status."""
    terminal.expect(pexpect.EOF)
    terminal.wait()
    return terminal.exitstatus


def test_a_terminal(terminal: Callable[..., pexpect.spawn[str]]) -> None:
    shell = terminal("sh", "-c", "tty; exit 4")
    shell.expect("/dev/pts/0|/dev/console")

    assert ended(shell) == 4


def test_the_size_of_a_terminal(terminal: Callable[..., pexpect.spawn[str]]) -> None:
    # ctr tells it after the start, at a moment of its own.
    shell = terminal("sh", "-c", 'until [ "$(stty size)" = "33 77" ]; do sleep 0.05; done; echo fits')
    shell.expect("fits")

    assert ended(shell) == 0


def test_what_is_typed(terminal: Callable[..., pexpect.spawn[str]]) -> None:
    shell = terminal("sh", "-c", "read line; echo got:$line:")
    shell.sendline("typed")
    shell.expect("got:typed:")

    assert ended(shell) == 0


def test_events_come_in_order(containerd: Containerd, rootfs: Path, new_id: NewId, tmp_path: Path) -> None:
    name = new_id()
    with containerd.events(tmp_path / "events") as told:
        containerd.run("--rm", rootfs=rootfs, name=name, command=["sh", "-c", "exit 3"], check=False)
        events = told(until="/tasks/delete", of=name)

    assert [topic for topic, _ in events] == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert [event.get("exit_status") for _, event in events] == [None, None, 3, 3]
    assert len({event["pid"] for _, event in events}) == 1
    assert events[2][1]["id"] == name


def test_many_at_once(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    running = [
        subprocess.Popen(
            containerd.command(
                *run_arguments(
                    "--rm", rootfs=rootfs, name=new_id(), command=["sh", "-c", f"echo x; exit {number}"]
                )
            ),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )
        for number in range(6)
    ]  # fmt: skip
    done = [(each.communicate(timeout=scaled(60))[0], each.returncode) for each in running]

    assert done == [(b"x\n", number) for number in range(6)]
