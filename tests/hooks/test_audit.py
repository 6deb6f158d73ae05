"""The audit log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shimpy
from shimpy.hooks.audit import AuditLog
from tests.support import containers, leaks
from tests.support.machine import RUNTIME

pytestmark = pytest.mark.anyio

INIT = ("sh", "-c", "sleep 1000000 & wait")


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


async def test_a_line_for_each_that_is_asked_for_and_each_exit(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    log, name = tmp_path / "audit", new_id()
    hooks = AuditLog(log, sync=True)
    hooks.time_limit = 60  # for a disk that is busy
    async with (
        shimpy.in_process(runtime=RUNTIME, hooks=hooks) as shim,
        shim.container(name, bundle(*INIT)) as container,
    ):
        await container.run(["sh", "-c", "exit 3"], user=shimpy.User(uid=1000, gid=7))
        with pytest.raises(shimpy.NotFoundError):
            await container.run(["no-such-program"])
    create, asked, exited, missing, failed, end = read(log)

    events = [line["event"] for line in (create, asked, exited, missing, failed, end)]
    assert events == ["create", "exec", "exit", "exec", "failed", "exit"]
    assert {line["container"] for line in read(log)} == {name}
    assert (create["args"], create["process"]) == (list(INIT), end["process"])
    assert asked["user"] == {"uid": 1000, "gid": 7}
    assert (exited["process"], exited["exit_status"]) == (asked["process"], 3)
    assert 0 < exited["seconds"] < 60
    assert failed["error"]["status"] == "NOT_FOUND"
    assert end["exit_status"] == 137
    assert log.stat().st_mode & 0o777 == 0o600


async def test_what_cannot_be_written_is_not_run(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    async with shimpy.in_process(runtime=RUNTIME, hooks=AuditLog("/dev/full")) as shim:
        with pytest.raises(shimpy.InternalError, match=r"hook AuditLog.before_create failed: OSError.*space"):
            await shim.run(new_id(), bundle("touch", "/tmp/ran"))


async def test_in_a_shim_of_its_own(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    """By a TOML file, as `python -m shimpy --hooks` takes it."""
    log, config = tmp_path / "audit", tmp_path / "hooks.toml"
    config.write_text(f'[[hooks]]\nuse = "shimpy.hooks.audit:AuditLog"\npath = "{log}"\n')
    async with shimpy.launch(runtime=RUNTIME, hooks=str(config)) as shim:
        await shim.run(new_id(), bundle("sh", "-c", "exit 3"))

    assert [(line["event"], line.get("exit_status")) for line in read(log)] == [("create", None), ("exit", 3)]


_PROGRAM = """
import asyncio, sys
import shimpy
from shimpy.hooks.audit import AuditLog

async def main(name, bundle, log, runtime):
    async with shimpy.in_process(runtime=runtime, hooks=AuditLog(log)) as shim:
        async with shim.container(name, bundle) as container:
            await container.run(["sh", "-c", "exit 3"])
            await container.run(["sleep", "1000000"])

asyncio.run(main(*sys.argv[1:]))
"""


async def test_when_the_program_is_killed(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    """What was told stays, in whole lines."""
    log, name = tmp_path / "audit", new_id()
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, name, bundle(*INIT), log, RUNTIME]) as program:
        await leaks.eventually(lambda: log.exists() and log.read_text().count("\n") == 4)
        program.kill()
    containers.remove(name)

    assert log.read_text().endswith("\n")
    assert [line["event"] for line in read(log)] == ["create", "exec", "exit", "exec"]


async def test_a_torn_line_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full takes a part."""
    log = AuditLog(tmp_path / "audit")
    container = shimpy.HookContainer("web", "", "/bundle", {})
    call = shimpy.HookExec(container, "id", "", ["true"], [], "/", shimpy.User(), terminal=False)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        with pytest.raises(OSError, match="the disk is full"):
            await log.before_exec(call)
    await log.before_exec(call)
    torn, whole = (tmp_path / "audit").read_text().splitlines()

    assert len(torn) == 10
    assert json.loads(whole)["args"] == ["true"]


async def test_it_says_where_in_kubernetes(tmp_path: Path) -> None:
    annotations = {
        "io.kubernetes.cri.sandbox-namespace": "prod",
        "io.kubernetes.cri.sandbox-name": "web-1",
        "io.kubernetes.cri.container-name": "nginx",
    }
    container = shimpy.HookContainer("c1", "k8s.io", "/bundle", annotations)
    call = shimpy.HookExec(container, "id", "e1", ["true"], [], "/", shimpy.User(), terminal=True)
    await AuditLog(tmp_path / "audit").before_exec(call)
    (line,) = read(tmp_path / "audit")

    assert line["kubernetes"] == {"namespace": "prod", "pod": "web-1", "container": "nginx"}
