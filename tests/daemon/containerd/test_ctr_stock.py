"""What ctr(8) prints of a container of shimpy's, beside one of containerd's own shim."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.support.containerd import RUNTIME, STOCK, Containerd, run_arguments
from tests.support.leaks import eventually
from tests.support.time_scale import scaled

pytestmark = pytest.mark.anyio

NewId = Callable[[], str]
Both = Callable[..., list[tuple[int, str]]]


@pytest.fixture
def both(containerd: Containerd, rootfs: Path, new_id: NewId) -> Both:
    """Makes calls of ctr for a container of each; returns the status and the output of the last."""

    def make(
        *calls: list[str], command: tuple[str, ...] = ("sleep", "1000"), stdin: bytes = b""
    ) -> list[tuple[int, str]]:
        told = []
        for runtime in (STOCK, RUNTIME):
            name = new_id()
            start = ["-d"] if calls else ["--rm"]
            words = run_arguments(*start, rootfs=rootfs, name=name, command=command, runtime=runtime)
            done = containerd.ctr(*words, check=bool(calls))
            for call in calls:
                done = containerd.ctr(
                    *(word.replace("NAME", name) for word in call), stdin=stdin, check=False
                )
            told.append(answer(done, name))
        return told

    return make


def answer(done: subprocess.CompletedProcess[bytes], name: str) -> tuple[int, str]:
    """Returns the status and the output of a call, without what is different each time."""
    text = (done.stdout + done.stderr).decode().replace(name, "NAME")
    return done.returncode, re.sub(r'time="[^"]*"', "time=WHEN", text)


@pytest.mark.parametrize("command", ["echo out; echo err >&2; exit 7", "kill -9 $$"])
def test_run(both: Both, command: str) -> None:
    stock, ours = both(command=("sh", "-c", command))

    assert ours == stock


@pytest.mark.parametrize("command", ["exit 0", "exit 3"])
async def test_in_the_background(containerd: Containerd, rootfs: Path, new_id: NewId, command: str) -> None:
    """What `run -d`, `tasks ls` and `tasks delete` say of one that ends by itself."""

    async def live(runtime: str) -> list[tuple[int, str]]:
        name = new_id()
        words = run_arguments("-d", rootfs=rootfs, name=name, command=("sh", "-c", command), runtime=runtime)
        run = containerd.ctr(*words)
        await eventually(lambda: containerd.status(name) == "STOPPED")
        # Of the line that says so the pid is left out.
        listed = containerd.ctr("tasks", "ls")
        (line,) = (each for each in listed.stdout.decode().splitlines() if each.startswith(name))
        delete = containerd.ctr("tasks", "delete", name, check=False)
        return [answer(run, name), (listed.returncode, line.split()[-1]), answer(delete, name)]

    stock, ours = await live(STOCK), await live(RUNTIME)

    assert ours == stock


@pytest.mark.parametrize(
    "calls",
    [
        [["tasks", "exec", "--exec-id", "e", "NAME", "sh", "-c", "echo out; echo err >&2; exit 5"]],
        [["tasks", "exec", "--exec-id", "e", "NAME", "cat"]],
        [["tasks", "exec", "--exec-id", "e", "NAME", "sh", "-c", "kill -9 $$"]],
        [["tasks", "exec", "-d", "--exec-id", "e", "NAME", "sleep", "1000"]],
        [["tasks", "pause", "NAME"]],
        [["tasks", "pause", "NAME"], ["tasks", "resume", "NAME"]],
        [["tasks", "kill", "--signal", "SIGKILL", "NAME"]],
        [["tasks", "kill", "--all", "--signal", "SIGKILL", "NAME"]],
        [
            ["tasks", "exec", "-d", "--exec-id", "e", "NAME", "sleep", "1000"],
            ["tasks", "kill", "--signal", "SIGKILL", "--exec-id", "e", "NAME"],
        ],
        [["tasks", "delete", "--force", "NAME"]],
    ],
    ids=[
        "exec", "exec with stdin", "killed exec", "exec -d", "pause", "resume", "kill", "kill --all",
        "kill of an exec", "delete --force",
    ],
)  # fmt: skip
def test_a_task(both: Both, calls: list[list[str]]) -> None:
    stock, ours = both(*calls, stdin=b"typed\n" * 1000)

    assert ours == stock


@pytest.mark.parametrize(
    "calls",
    [
        [["tasks", "kill", "--signal", "SIGKILL", "--exec-id", "no", "NAME"]],
        [["tasks", "exec", "--exec-id", "e", "NAME", "no-such-program"]],
        [["tasks", "delete", "NAME"]],
        [["tasks", "pause", "NAME"], ["tasks", "pause", "NAME"]],
        [["tasks", "resume", "NAME"]],
        [["tasks", "pause", "NAME"], ["tasks", "exec", "--exec-id", "e", "NAME", "true"]],
        [["tasks", "start", "NAME"]],
    ],
    ids=["no exec", "no program", "delete", "pause", "resume", "exec while paused", "start"],
)
def test_what_is_refused(both: Both, calls: list[list[str]]) -> None:
    """With the same status; the words are each shim's own."""
    stock, ours = both(*calls)

    assert ours[0] == stock[0] != 0
    assert (ours[1] == "", stock[1] == "") == (False, False)


def test_metrics_have_the_same_names(both: Both) -> None:
    stock, ours = (
        re.findall(r"^([a-z_.]+)\s+\d+", text, re.MULTILINE) for _, text in both(["tasks", "metrics", "NAME"])
    )

    assert ours == stock
    assert ours


def test_a_checkpoint_ends_alike(both: Both, tmp_path: Path) -> None:
    if shutil.which("criu") is None:
        pytest.skip("CRIU is not installed")
    stock, ours = both(["tasks", "checkpoint", "--image-path", str(tmp_path / "image"), "NAME"])

    assert ours[0] == stock[0]
    # Where CRIU refuses the kernel, the runtime's words for that are in both.
    words = re.search(r"criu failed: type \w+ errno \d+", stock[1])
    assert words is None or words[0] in ours[1]


def test_a_terminal(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    told = []
    script = 'tty; read line; echo "got:$line"; exit 4'
    for runtime in (STOCK, RUNTIME):
        words = run_arguments(
            "--rm", "-t", rootfs=rootfs, name=new_id(), command=("sh", "-c", script), runtime=runtime
        )
        told.append(at_a_terminal(containerd.command(*words)))

    assert told[1] == told[0]
    assert told[1][0] == 4


def test_an_execs_terminal(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    told = []
    script = 'tty; read line; echo "got:$line"; exit 4'
    for runtime in (STOCK, RUNTIME):
        name = new_id()
        words = run_arguments("-d", rootfs=rootfs, name=name, command=("sleep", "1000"), runtime=runtime)
        containerd.ctr(*words)
        words = ["tasks", "exec", "-t", "--exec-id", "e", name, "sh", "-c", script]
        told.append(at_a_terminal(containerd.command(*words)))

    assert told[1] == told[0]
    assert told[1][0] == 4


def at_a_terminal(command: list[str]) -> tuple[int | None, str]:
    """Runs a command that asks for a line; returns its exit status, and what was to be seen."""
    shell = pexpect.spawn(command[0], command[1:], encoding="utf-8", timeout=scaled(30))
    shown = io.StringIO()
    shell.logfile_read = shown
    # Only then, because what is typed before is echoed at another place.
    shell.expect("/dev/(pts/[0-9]+|console)")
    shell.sendline("typed")
    shell.expect(pexpect.EOF)
    shell.close()
    # ctr sets the size at a moment of its own, and complains if the process has ended by then.
    return shell.exitstatus, re.sub(r".*resize pty.*\n", "", shown.getvalue())


def test_ps(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    """Of a container with a child and an exec, whose name it shows."""
    told = []
    for runtime in (STOCK, RUNTIME):
        name = new_id()
        words = run_arguments("-d", rootfs=rootfs, name=name, command=("sleep", "1000"), runtime=runtime)
        containerd.ctr(*words)
        containerd.ctr("tasks", "exec", "-d", "--exec-id", "e", name, "sleep", "1000")
        text = containerd.ctr("tasks", "ps", name).stdout.decode()
        # How wide the column is depends on the pids.
        told.append(re.sub(r"(PID|\d+)\s+", r"\1 ", text))

    assert re.sub(r"\b\d+\b", "N", told[1]) == re.sub(r"\b\d+\b", "N", told[0])
    assert told[1].count("\n") == 3


def test_events(containerd: Containerd, rootfs: Path, new_id: NewId, tmp_path: Path) -> None:
    told = []
    for runtime in (STOCK, RUNTIME):
        name = new_id()
        with containerd.events(tmp_path / runtime) as heard:
            words = run_arguments("-d", rootfs=rootfs, name=name, command=("sleep", "1000"), runtime=runtime)
            containerd.ctr(*words)
            containerd.ctr("tasks", "exec", "--exec-id", "e", name, "sh", "-c", "exit 5", check=False)
            containerd.ctr("tasks", "pause", name)
            containerd.ctr("tasks", "resume", name)
            containerd.ctr("tasks", "kill", "--signal", "SIGKILL", name)
            heard(until="/tasks/exit", of=name)
            # Deleted only when it has ended.
            containerd.ctr("tasks", "delete", "--force", name)
            events = heard(until="/tasks/delete", of=name)
        told.append([(topic, plain(event, name)) for topic, event in events])

    assert told[1] == told[0]
    assert [topic.removeprefix("/tasks/") for topic, _ in told[1]] == [
        "create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete",
    ]  # fmt: skip


def plain(value: Any, name: str) -> Any:
    """Returns an event without what is different each time."""
    if isinstance(value, dict):
        varies = {"pid": "PID", "exited_at": "WHEN"}
        return {key: varies.get(key) or plain(each, name) for key, each in value.items()}
    if isinstance(value, str):
        # The FIFOs have names of their own.
        return re.sub(r"/fifo/\d+/", "/fifo/N/", value.replace(name, "NAME"))
    return value
