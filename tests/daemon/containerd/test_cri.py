"""Pods: containerd's own CRI plugin, asked over gRPC as the kubelet asks it, with shimpy as its runtime."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shimpy.daemon.containerd.sockets import path_of
from tests.support import machine
from tests.support.containerd import BINARIES
from tests.support.containers import cgroups, new_id
from tests.support.cri import NAMESPACE, RESIZE, STDIN, STDOUT, Cri
from tests.support.leaks import alive, eventually
from tests.support.shimv2 import gone
from tests.support.time_scale import SCALE

pytestmark = pytest.mark.anyio

CREATED, RUNNING, EXITED = range(3)

# Runs until it is told to end, and says with what status.
LIVES = ("sh", "-c", "trap 'exit 3' TERM; sleep 1000 & echo runs; wait")

_OPTIONS = """\
[[hooks]]
use = "shimpy.hooks.audit:AuditLog"
path = "{folder}/audit.jsonl"

[[hooks]]
use = "shimpy.hooks.policy:ExecPolicy"
deny = [{{ command = "^touch ", namespace = "default", message = "no touching here" }}]
"""


@pytest.fixture(scope="module")
def cri(rootfs: Path) -> Iterator[Cri]:
    """containerd with its CRI plugin, and an audit log."""
    if not BINARIES and (shutil.which("containerd") is None or shutil.which("ctr") is None):
        pytest.skip("containerd is not installed")
    if lacking := machine.lacking():
        pytest.skip(f"containers need {lacking}")
    cri = Cri(rootfs, _OPTIONS)
    yield cri
    cri.close()


@pytest.fixture(scope="module")
def pod(cri: Cri) -> str:
    """A sandbox that runs."""
    return cri.run_pod(new_id())


@pytest.fixture(scope="module")
def container(cri: Cri, pod: str) -> str:
    """A container of the pod that runs."""
    name = cri.create(pod, *LIVES)
    cri.start(name)
    return name


def audited(cri: Cri, *scripts: str) -> list[dict[str, Any]]:
    """Returns the lines of the audit log about execs of scripts."""
    lines = (cri.containerd.folder / "audit.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["exec_id"] and line["args"][-1] in scripts]


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


async def test_the_life_of_a_pod_of_three(cri: Cri) -> None:
    containerd, pod = cri.containerd, cri.run_pod(new_id())
    containers = [cri.create(pod, *LIVES) for _ in range(3)]
    created = [cri.status(each).state for each in containers]
    for each in containers:
        cri.start(each)
    shim = containerd.shim_pid(pod)
    address = path_of(str(containerd.folder / "c.sock"), NAMESPACE, pod, "")
    there = os.path.exists(address)

    assert created == [CREATED] * 3
    assert [cri.status(each).state for each in containers] == [RUNNING] * 3
    for each in containers:
        with pytest.raises(AssertionError, match="no shim"):
            containerd.shim_pid(each)
        cri.stop(each, grace=20)
    assert [(cri.status(each).state, cri.status(each).exit_code) for each in containers] == [(EXITED, 3)] * 3
    for each in containers:
        cri.remove(each)
    assert alive(shim)
    cri.remove_pod(pod)

    await gone(shim)
    assert (there, os.path.exists(address)) == (True, False)
    assert [each for each in (pod, *containers) if cgroups(each) or containerd.bundle(each).exists()] == []
    assert [each for each in (pod, *containers) if each in mounts()] == []


async def test_what_a_container_writes_is_in_its_log(cri: Cri, pod: str) -> None:
    name = cri.create(pod, "sh", "-c", "echo out; echo err >&2; exit 7")
    cri.start(name)
    await eventually(lambda: cri.status(name).state == EXITED)
    lines = [line.split(maxsplit=3)[1:] for line in cri.log[name].read_text().splitlines()]

    assert sorted(lines) == [["stderr", "F", "err"], ["stdout", "F", "out"]]
    assert (cri.status(name).exit_code, cri.status(name).reason) == (7, "Error")


def test_exec_sync(cri: Cri, container: str) -> None:
    done = cri.exec_sync(container, "sh", "-c", "echo out; echo err >&2; exit 5")

    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 5)


def test_all_of_an_exec_syncs_much_output(cri: Cri, container: str) -> None:
    done = cri.exec_sync(container, "sh", "-c", "yes 0123456789abcde | head -c 1000000")

    assert len(done.stdout) == 1_000_000


def test_an_exec_that_takes_too_long_is_ended(cri: Cri, container: str) -> None:
    with pytest.raises(grpc.RpcError, match="timeout"):
        cri.exec_sync(container, "sleep", "1234", timeout=1)

    assert b"sleep 1234" not in cri.exec_sync(container, "ps", "-o", "args").stdout


def test_an_exec_with_a_terminal(cri: Cri, container: str) -> None:
    # containerd tells of the size at a moment of its own.
    fits = 'until [ "$(stty size)" = "33 77" ]; do sleep 0.05; done'
    with cri.terminal(container, "sh", "-c", f'read line; echo "got:$line"; {fits}; echo fits') as stream:
        stream.send(bytes([RESIZE]) + json.dumps({"Width": 77, "Height": 33}).encode())
        stream.send(bytes([STDIN]) + b"typed\n")
        told = [message for message in stream if isinstance(message, bytes)]
    shown = b"".join(message[1:] for message in told if message[0] == STDOUT)

    # Until the size is told, there is none, and stty says so.
    assert shown.startswith(b"typed\r\ngot:typed\r\n")
    assert shown.endswith(b"fits\r\n")


async def test_the_audit_log_has_each_exec_once(cri: Cri, pod: str) -> None:
    """A line before it runs and one after, from ExecSync and from Exec with a terminal."""
    name = cri.create(pod, *LIVES)
    cri.start(name)
    cri.exec_sync(name, "sh", "-c", "exit 5")
    with cri.terminal(name, "sh", "-c", "exit 6") as stream:
        list(stream)
    # It is told after everyone else.
    await eventually(lambda: len(audited(cri, "exit 5", "exit 6")) >= 4)
    lines = audited(cri, "exit 5", "exit 6")

    assert [(line["event"], line["args"][2], line["terminal"]) for line in lines] == [
        ("exec", "exit 5", False), ("exit", "exit 5", False),
        ("exec", "exit 6", True), ("exit", "exit 6", True),
    ]  # fmt: skip
    assert [line["exit_status"] for line in lines if line["event"] == "exit"] == [5, 6]
    assert {(line["namespace"], line["container"]) for line in lines} == {(NAMESPACE, name)}
    place = {"namespace": "default", "pod": cri.name(pod), "container": cri.log[name].stem}
    assert [line["kubernetes"] for line in lines] == [place] * 4


async def test_a_refused_exec_says_the_policys_words(cri: Cri, container: str) -> None:
    """From ExecSync and from Exec with a terminal, as `kubectl exec` prints them; nothing has run."""
    with pytest.raises(grpc.RpcError, match="no touching here"):
        cri.exec_sync(container, "touch", "/tmp/touched")
    with cri.terminal(container, "touch", "/tmp/touched") as stream:
        told = list(stream)

    assert "no touching here" in str(told)
    assert "touched" not in cri.exec_sync(container, "ls", "/tmp").stdout.decode()


async def test_stats(cri: Cri, pod: str) -> None:
    name = cri.create(pod, "sh", "-c", "while :; do :; done", memory=64 << 20)
    cri.start(name)
    await eventually(lambda: cri.stats(name).cpu.usage_core_nano_seconds.value > 10_000_000)
    first, second = cri.stats(name), cri.stats(name)

    assert second.cpu.usage_core_nano_seconds.value > first.cpu.usage_core_nano_seconds.value
    assert 0 < first.memory.working_set_bytes.value < 64 << 20
    cri.stop(name)
    assert cri.status(name).exit_code == 137


async def test_a_container_that_needs_too_much_memory(cri: Cri, pod: str) -> None:
    name = cri.create(pod, "sh", "-c", "tail /dev/zero", memory=32 << 20)
    cri.start(name)
    await eventually(lambda: cri.status(name).state == EXITED)

    assert cri.status(name).reason == "OOMKilled"


async def test_a_pod_outlives_containerd(cri: Cri, pod: str) -> None:
    name = cri.create(pod, *LIVES)
    cri.start(name)
    cri.restart()
    first = cri.status(name).state
    done = cri.exec_sync(name, "echo", "x")
    cri.stop(name, grace=20)

    assert (first, done.stdout, cri.status(name).exit_code) == (RUNNING, b"x\n", 3)


@pytest.mark.skipif(SCALE > 1, reason="containerd gives a delete five seconds, however slow the machine is")
async def test_of_a_pod_whose_shim_is_killed_nothing_is_left(cri: Cri) -> None:
    containerd, pod = cri.containerd, cri.run_pod(new_id())
    name = cri.create(pod, *LIVES)
    cri.start(name)
    pids = [int((containerd.bundle(each) / "init.pid").read_text()) for each in (pod, name)]
    address = path_of(str(containerd.folder / "c.sock"), NAMESPACE, pod)
    there = (os.path.exists(address), f"{name}/rootfs" in mounts())
    shim = containerd.shim_pid(pod)
    os.kill(shim, signal.SIGKILL)
    await gone(shim)
    await eventually(lambda: cri.status(name).state == EXITED)

    # containerd cleans up in its own time.
    await eventually(lambda: not containerd.bundle(name).exists() and not containerd.bundle(pod).exists())
    assert (there, os.path.exists(address)) == ((True, True), False)
    # The pod's /dev/shm is containerd's, and stays until the pod is stopped.
    assert [each for each in (pod, name) if cgroups(each) or f"{each}/rootfs" in mounts()] == []
    assert [pid for pid in pids if alive(pid)] == []
    cri.remove_pod(pod)
