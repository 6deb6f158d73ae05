"""A client in another language: Node's @grpc/grpc-js, which knows the shim by reflection alone."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.proto import INCLUDE, PROTO
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

_SOURCE = ROOT / "tests" / "support" / "node"


@pytest.fixture(scope="session")
def client() -> Path:
    """The client's program, with its libraries beside it; they are kept for the next run."""
    for needed in ("node", "npm"):
        if shutil.which(needed) is None:
            pytest.skip(f"a client in JavaScript needs {needed}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "shimpy-tests" / "node"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed, wanted = directory / "package.json", (_SOURCE / "package.json").read_bytes()
        if not (directory / "node_modules").is_dir() or installed.read_bytes() != wanted:
            installed.write_bytes(wanted)
            subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"],
                cwd=directory,
                check=True,
                capture_output=True,
                timeout=120,
            )
        # What it has to know beforehand; everything else it learns by reflection.
        for source in (_SOURCE / "client.js", INCLUDE / "grpc/reflection/v1/reflection.proto"):
            shutil.copy(source, directory)
    return directory / "client.js"


async def _result(client: Path, *arguments: str | Path) -> Any:
    process = await asyncio.create_subprocess_exec(
        "node",
        client,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return json.loads(stdout)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("compiled", [False, True], ids=["reflection", "proto"])
async def test_javascript(
    client: Path, server: Server, bundle: Callable[..., str], new_id: Callable[[], str], *, compiled: bool
) -> None:
    container_id, made = new_id(), bundle("sh", "-c", "exit 7")
    proto = [PROTO, PROTO.parent, INCLUDE] if compiled else []
    result = await _result(client, server.socket, container_id, made, *proto)
    pid = result["pid"]
    assert {"containerd.shim.v1.Shim", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= {
        *result["services"]
    }
    assert result["health"] == "SERVING"
    assert result["events"] == [
        {"id": container_id, "type": "CREATE", "pid": pid, "exit_status": 0},
        {"id": container_id, "type": "START", "pid": pid, "exit_status": 0},
        {"id": container_id, "type": "EXIT", "pid": pid, "exit_status": 7},
    ]
    assert result["state"] == {
        "id": container_id,
        "bundle": made,
        "initPid": pid,
        "processes": [{"pid": pid, "state": "STOPPED"}],
    }
    assert result["exit_status"] == 7
    assert result["refused"]["code"] == 9  # FAILED_PRECONDITION
    assert result["refused"]["details"]
