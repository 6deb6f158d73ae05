"""What ctr(8) prints of a container of shimpy's, beside one of containerd's own shim."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.containerd import RUNTIME, STOCK, Containerd, run_arguments

NewId = Callable[[], str]
Both = Callable[..., list[tuple[int, str]]]


@pytest.fixture
def both(containerd: Containerd, rootfs: Path, new_id: NewId) -> Both:
    """Makes calls of ctr for a container of each; returns the status and the output of the last."""

    def make(*calls: list[str], command: tuple[str, ...] = ("sleep", "1000")) -> list[tuple[int, str]]:
        told = []
        for runtime in (STOCK, RUNTIME):
            name = new_id()
            start = ["-d"] if calls else ["--rm"]
            words = run_arguments(*start, rootfs=rootfs, name=name, command=command, runtime=runtime)
            done = containerd.ctr(*words, check=bool(calls))
            for call in calls:
                done = containerd.ctr(*(word.replace("NAME", name) for word in call), check=False)
            text = (done.stdout + done.stderr).decode().replace(name, "NAME")
            told.append((done.returncode, text))
        return told

    return make


@pytest.mark.parametrize("command", ["echo out; echo err >&2; exit 7", "kill -9 $$"])
def test_run(both: Both, command: str) -> None:
    stock, ours = both(command=("sh", "-c", command))

    assert ours == stock


@pytest.mark.parametrize(
    "calls",
    [
        [["tasks", "exec", "--exec-id", "e", "NAME", "sh", "-c", "echo out; exit 5"]],
        [["tasks", "pause", "NAME"], ["tasks", "resume", "NAME"]],
        [["tasks", "kill", "--signal", "SIGKILL", "NAME"]],
        [["tasks", "delete", "--force", "NAME"]],
        [["tasks", "kill", "--signal", "SIGKILL", "--exec-id", "no", "NAME"]],
    ],
    ids=["exec", "resume", "kill", "force", "no exec"],
)
def test_a_task(both: Both, calls: list[list[str]]) -> None:
    stock, ours = both(*calls)

    assert ours[0] == stock[0]
    assert (ours[1] == "") == (stock[1] == "")


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
