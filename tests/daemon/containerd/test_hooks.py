"""Hooks under containerd: those that a runtime's options name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shimpy.services.task.hooks import CONFIG
from tests.support.containerd import OPTIONS, Containerd
from tests.support.containers import cgroups
from tests.support.leaks import eventually
from tests.support.time_scale import scaled
from tests.support.upgrades import Installed

pytestmark = pytest.mark.anyio

_CONFIG = """\
[[hooks]]
use = "shimpy.hooks.audit:AuditLog"
path = "{folder}/audit.jsonl"

[[hooks]]
use = "shimpy.hooks.policy:ExecPolicy"
deny = [{{ command = "^touch ", namespace = "shimpy-test-*", message = "no touching here" }}]
"""


@pytest.fixture
def hooked(
    containerd: Containerd, rootfs: Path, new_id: Callable[[], str], tmp_path: Path
) -> tuple[str, Path]:
    """A container that runs with an audit log and a policy; returns its name and the log's path."""
    if os.path.exists(CONFIG):
        pytest.skip(f"there is a {CONFIG} on this machine")
    config = tmp_path / "hooks.toml"
    config.write_text(OPTIONS + _CONFIG.format(folder=tmp_path))
    name = new_id()
    containerd.run(
        "-d", "--runtime-config-path", str(config),
        rootfs=rootfs, name=name, command=["sh", "-c", "sleep 1000000 & wait"],
    )  # fmt: skip
    return name, tmp_path / "audit.jsonl"


def read(log: Path, *, until: int) -> list[dict[str, Any]]:
    """Returns the lines of an audit log once there are so many: it is told after everyone else."""
    end = time.monotonic() + scaled(20)
    while time.monotonic() < end:
        lines = log.read_text().splitlines(keepends=True)
        if len(lines) >= until:
            assert all(line.endswith("\n") for line in lines)
            return [json.loads(line) for line in lines]
        time.sleep(0.01)
    raise AssertionError(log.read_text())


def test_audit_of_an_exec_and_of_one_that_is_refused(
    containerd: Containerd, hooked: tuple[str, Path]
) -> None:
    name, log = hooked
    containerd.ctr(
        "tasks", "exec", "--exec-id", "one", "--user", "1000", name, "sh", "-c", "exit 5", check=False
    )
    refused = containerd.ctr("tasks", "exec", "--exec-id", "two", name, "touch", "/tmp/touched", check=False)
    ls = containerd.ctr("tasks", "exec", "--exec-id", "three", name, "ls", "/tmp")

    assert refused.returncode != 0
    assert b"no touching here" in refused.stderr
    assert b"touched" not in ls.stdout
    lines = read(log, until=7)
    one, two, _ = ([line for line in lines if line["exec_id"] == each] for each in ("one", "two", "three"))
    assert [line["event"] for line in one] == ["exec", "exit"]
    assert {line["process"] for line in one} == {one[0]["process"]}
    assert one[0]["args"] == ["sh", "-c", "exit 5"]
    assert one[0]["user"] == {"uid": 1000, "gid": 1000}
    assert (one[0]["namespace"], one[0]["container"]) == (containerd.namespace, name)
    assert (one[1]["exit_status"], one[1]["pid"] > 1) == (5, True)
    assert [line["event"] for line in two] == ["exec", "failed"]
    assert two[1]["error"] == {"status": "PERMISSION_DENIED", "message": "no touching here"}


async def test_audit_when_the_shim_is_killed(containerd: Containerd, hooked: tuple[str, Path]) -> None:
    """What was told stays, in whole lines."""
    name, log = hooked
    with subprocess.Popen(
        containerd.command("tasks", "exec", "--exec-id", "one", name, "sleep", "1000000"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as execing:  # fmt: skip
        lines = read(log, until=2)
        os.kill(containerd.shim_pid(name), signal.SIGKILL)
        execing.wait(scaled(30))

    assert [(line["event"], line["args"][0]) for line in lines] == [("create", "sh"), ("exec", "sleep")]
    # containerd cleans up in its own time.
    await eventually(lambda: not cgroups(name) and containerd.tasks() == [])
    assert read(log, until=2) == lines


def test_hooks_that_cannot_be_loaded_refuse_the_container(
    containerd: Containerd, rootfs: Path, new_id: Callable[[], str], tmp_path: Path
) -> None:
    config = tmp_path / "hooks.toml"
    config.write_text(OPTIONS + '[[hooks]]\nuse = "no_such_module:Policy"\n')
    name = new_id()
    done = containerd.run(
        "--runtime-config-path", str(config), rootfs=rootfs, name=name, command=["true"], check=False
    )

    assert done.returncode != 0
    assert b"hooks: no_such_module:Policy: ModuleNotFoundError" in done.stderr


async def test_a_shim_with_hooks_is_not_upgraded(
    containerd: Containerd, hooked: tuple[str, Path], tmp_path: Path
) -> None:
    """What they hold cannot be kept."""
    name, _ = hooked

    assert "hooks" in await Installed(containerd, tmp_path).refused(containerd.shim_pid(name))
    assert containerd.ctr("tasks", "exec", "--exec-id", "one", name, "echo", "x").stdout == b"x\n"
