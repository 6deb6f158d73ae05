"""`shimpy.run`: whose child its command is, where this process can have a shim and where not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import shimpy
from shimpy.client import one_shot
from shimpy.client.program import program
from shimpy.errors import FailedPreconditionError
from tests.support.leaks import children, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]


async def test_command_is_run_by_this_process(bundle: Callable[..., str]) -> None:
    path = bundle("sleep", "1000000")
    running = asyncio.ensure_future(shimpy.run(path))

    def started() -> list[int]:
        return [one.pid for one in program.open().containers() if one.bundle == path and one.pid]

    await eventually(started)
    assert started()[0] in children()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert started() == []


def warm_processes() -> list[int]:
    """Returns the children of this process that fork shims."""
    return [
        pid
        for pid in children()
        if b"shimpy.daemon.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]


async def test_shims_of_another_kind_of_event_loop_are_forked_from_one_process(
    bundle: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*, runtime: str, hooks: object) -> AbstractAsyncContextManager[shimpy.ShimClient]:
        raise FailedPreconditionError(f"this event loop is not asyncio's own, for {runtime}, {hooks}")

    monkeypatch.setattr(one_shot, "in_process", refused)
    waiting = [asyncio.ensure_future(shimpy.run(bundle("sleep", "1000000"), timeout=30)) for _ in range(2)]

    def running() -> list[int]:
        mine = {str(tmp_path / f"bundle{number}") for number in (1, 2)}
        return [one.pid for one in program.open().containers() if one.bundle in mine and one.pid]

    await eventually(lambda: len(running()) == 2)
    assert len(warm_processes()) == 1
    assert len(program.open().shims()) == 2

    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert warm_processes() == []
    assert program.open().shims() == []


# What a command prints, by way of uvloop, whose watching of children is not asyncio's.
_ON_UVLOOP = """
import sys, shimpy, uvloop
result = uvloop.run(shimpy.run(sys.argv[1], ["sh", "-c", "cat; exit 3"], input=b"read"))
print(result.stdout, result.exit_status)
"""


def test_uvloop_has_its_commands_and_leaves_nothing_open(rootfs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _ON_UVLOOP, rootfs],
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout) == (0, "b'read' 3\n"), done.stderr
    assert "Warning" not in done.stderr


class Renaming(shimpy.Hooks):
    """Gives each container a name of its own choice."""

    async def before_create(self, create: shimpy.HookCreate) -> None:
        create.spec["hostname"] = "hooked"


async def test_hooks_see_its_container(rootfs: Path) -> None:
    result = await shimpy.run(rootfs, ["hostname"], hooks=Renaming())
    assert result.stdout == b"hooked\n"


async def test_hooks_are_never_left_out(rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim in another process could not have them."""

    def refused(*, runtime: str, hooks: object) -> AbstractAsyncContextManager[shimpy.ShimClient]:
        raise FailedPreconditionError(f"this event loop is not asyncio's own, for {runtime}, {hooks}")

    monkeypatch.setattr(one_shot, "in_process", refused)
    with pytest.raises(FailedPreconditionError, match="not asyncio's own"):
        await shimpy.run(rootfs, ["hostname"], hooks=[Renaming()])
