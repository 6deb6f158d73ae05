"""What has to hold of many containers under one containerd."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.daemon.containerd.sockets import path_of
from tests.support.containerd import Containerd, run_arguments
from tests.support.containers import cgroups
from tests.support.leaks import alive
from tests.support.rounds import FULL, rounds
from tests.support.shimv2 import gone
from tests.support.time_scale import scaled

pytestmark = pytest.mark.anyio

NewId = Callable[[], str]


def socket_of(containerd: Containerd, name: str) -> str:
    return path_of(str(containerd.folder / "c.sock"), containerd.namespace, name, "")


def test_all_outlive_a_containerd_that_is_killed(
    containerd: Containerd, rootfs: Path, new_id: NewId, tmp_path: Path
) -> None:
    names = [new_id() for _ in range(rounds(3, 20))]
    shared = tmp_path / "shared"
    shared.mkdir()
    mount = f"type=bind,src={shared},dst=/tmp,options=rbind:ro"
    for number, name in enumerate(names):
        command = ["sh", "-c", f"until [ -e /tmp/end ]; do sleep 0.05; done; exit {number + 1}"]
        containerd.run("-d", "--mount", mount, rootfs=rootfs, name=name, command=command)

    containerd.restart()

    assert [containerd.status(name) for name in names] == ["RUNNING"] * len(names)
    with containerd.events(tmp_path / "events") as told:
        (shared / "end").touch()
        for number, name in enumerate(names):
            (_, event), *_ = told(until="/tasks/exit", of=name)
            assert event["exit_status"] == number + 1


def test_a_containerd_that_was_frozen_hears_of_each_exit_once(
    containerd: Containerd, rootfs: Path, new_id: NewId, tmp_path: Path
) -> None:
    names = [new_id() for _ in range(3)]
    for name in names:
        containerd.run("-d", rootfs=rootfs, name=name, command=["sleep", "1000"])
    pids = [int((containerd.bundle(name) / "init.pid").read_text()) for name in names]
    with containerd.events(tmp_path / "events") as told:
        os.kill(containerd.pid, signal.SIGSTOP)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            # Longer than containerd's own shim waits until it tells it again.
            time.sleep(6)
        finally:
            os.kill(containerd.pid, signal.SIGCONT)
        for name in names:
            told(until="/tasks/exit", of=name)
            containerd.remove(name)
            topics = [topic for topic, _ in told(until="/tasks/delete", of=name)]
            assert topics.count("/tasks/exit") == 1


def test_run_after_run_leaves_nothing(
    containerd: Containerd, rootfs: Path, new_id: NewId, running: str
) -> None:
    names = [new_id() for _ in range(rounds(12, 400))]
    statuses = []
    for first in range(0, len(names), 4):
        started = [
            subprocess.Popen(
                containerd.command(*run_arguments("--rm", rootfs=rootfs, name=name, command=["true"])),
                stdin=subprocess.DEVNULL,
            )
            for name in names[first : first + 4]
        ]
        statuses += [each.wait(scaled(60)) for each in started]

    assert statuses == [0] * len(names)
    assert containerd.tasks() == [running]
    assert [name for name in names if cgroups(name) or containerd.bundle(name).exists()] == []
    assert [name for name in [*names, running] if os.path.exists(socket_of(containerd, name))] == [running]


async def test_an_execs_child_holds_up_nobody(containerd: Containerd, running: str, tmp_path: Path) -> None:
    done = containerd.ctr(
        "tasks", "exec", "--exec-id", "one", running, "sh", "-c", "sleep 1000 & echo $!"
    )  # fmt: skip
    left = done.stdout.decode().split()

    listed = containerd.ctr("tasks", "ps", running).stdout.decode().splitlines()[1:]
    commands = [Path(f"/proc/{line.split()[0]}/cmdline").read_bytes() for line in listed]
    assert len(left) == 1
    assert b"sleep\x001000\x00" in commands


def test_what_goes_through_an_exec_is_whole(containerd: Containerd, running: str) -> None:
    for number in range(rounds(3, 500)):
        name = f"e{number}"
        done = containerd.ctr("tasks", "exec", "--exec-id", name, running, "cat", stdin=b"x\n")
        assert done.stdout == b"x\n"


async def test_ten_pods_have_ten_shims(containerd: Containerd, rootfs: Path, new_id: NewId) -> None:
    pods = [[new_id() for _ in range(3)] for _ in range(rounds(2, 10))]
    for place in range(3):
        starting = [
            subprocess.Popen(
                containerd.command(
                    *run_arguments(
                        "-d", "--annotation", f"io.kubernetes.cri.sandbox-id={pod[0]}",
                        rootfs=rootfs, name=pod[place], command=["sleep", "1000"],
                    )
                ),
                stdin=subprocess.DEVNULL,
            )
            for pod in pods
        ]  # fmt: skip
        assert [each.wait(scaled(60)) for each in starting] == [0] * len(pods)
    shims = [containerd.shim_pid(pod[0]) for pod in pods]

    for pod, shim in zip(pods, shims, strict=True):
        for name in pod[1:]:
            with pytest.raises(AssertionError, match="no shim"):
                containerd.shim_pid(name)
            containerd.remove(name)
        assert alive(shim)
        containerd.remove(pod[0])
        await gone(shim)
    assert len(set(shims)) == len(pods)


@pytest.mark.skipif(not FULL, reason="200 MB take their time; make stress has them")
def test_much_out_of_an_exec_is_the_same(containerd: Containerd, running: str) -> None:
    count = 200_000_000
    done = containerd.ctr(
        "tasks", "exec", "--exec-id", "one", running, "sh", "-c", f"yes 0123456789abcde | head -c {count}"
    )  # fmt: skip

    expected = hashlib.sha256(b"0123456789abcde\n" * (count // 16)).digest()
    assert hashlib.sha256(done.stdout).digest() == expected
