"""Mounting beside an event loop: FUSE's programs, and calls that are cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from shimpy.core.reaper import Reaper
from shimpy.core.rootfs.attach import mount_rootfs, unmount_rootfs
from shimpy.core.rootfs.mounts import Mount, Rootfs
from shimpy.core.rootfs.unmount import mounted_at
from shimpy.errors import InternalError, InvalidArgumentError, NotFoundError, ShimError
from tests.support.leaks import eventually
from tests.support.namespaces import private_mounts

Act = Callable[[Reaper], Coroutine[None, None, None]]


def run(act: Act) -> None:
    """Runs what a test does, with a reaper."""

    async def body() -> None:
        reaper = Reaper()
        reaper.open()
        try:
            await act(reaper)
        finally:
            reaper.close()

    asyncio.run(body())


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a `mount.fuse3` in sh; gives the path of a file that is its to write to, `$LOG`."""

    def write(script: str) -> Path:
        path, log = tmp_path / "bin" / "mount.fuse3", tmp_path / "log"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\nLOG={log}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
        return log

    return write


@private_mounts
def test_mounts_are_made_and_undone(rootfs: str, bind: Callable[..., Mount]) -> None:
    async def act(reaper: Reaper) -> None:
        await mount_rootfs(rootfs, [bind(), bind(target="inner")], reaper)
        assert mounted_at(rootfs) == [rootfs, f"{rootfs}/inner"]

        await unmount_rootfs(rootfs)
        assert mounted_at(rootfs) == []

    run(act)


@private_mounts
def test_a_program_mounts_fuse(rootfs: str, program: Callable[[str], Path]) -> None:
    log = program('echo "$@" >$LOG; mount -t tmpfs tmpfs "$2"')
    mount = Mount("fuse3.fuse-overlayfs", "overlay", "", ("lowerdir=/a:/b", "ro"))

    async def act(reaper: Reaper) -> None:
        await mount_rootfs(rootfs, [mount], reaper)

    run(act)
    assert log.read_text() == f"overlay {rootfs} -o lowerdir=/a:/b -o ro -t fuse-overlayfs\n"
    assert mounted_at(rootfs) == [rootfs]


@private_mounts
def test_what_a_program_has_mounted_is_undone_with_the_rest(
    rootfs: str, program: Callable[[str], Path]
) -> None:
    program('mount -t tmpfs tmpfs "$2"')

    async def act(reaper: Reaper) -> None:
        with pytest.raises(ShimError, match="nosuchfs"):
            await mount_rootfs(rootfs, [Mount("fuse3.x", "x"), Mount("nosuchfs", "x")], reaper)

    run(act)
    assert mounted_at(rootfs) == []


@private_mounts
def test_a_program_that_fails_says_why(rootfs: str, program: Callable[[str], Path]) -> None:
    program("echo no such layer >&2; exit 3")

    async def act(reaper: Reaper) -> None:
        with pytest.raises(InternalError, match=r"mount\.fuse3 failed with status 3: no such layer"):
            await mount_rootfs(rootfs, [Mount("fuse3.x", "x")], reaper)

    run(act)


@private_mounts
def test_a_program_that_is_not_there(rootfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    async def act(reaper: Reaper) -> None:
        with pytest.raises(NotFoundError, match=r"mount\.fuse"):
            await mount_rootfs(rootfs, [Mount("fuse.x", "x")], reaper)

    run(act)


@private_mounts
def test_a_program_may_go_on_and_hold_its_output(rootfs: str, program: Callable[[str], Path]) -> None:
    """It serves what it has mounted, for as long as that is there."""
    log = program('mount -t tmpfs tmpfs "$2"; sleep 100 & echo $! >$LOG')

    async def act(reaper: Reaper) -> None:
        await mount_rootfs(rootfs, [Mount("fuse3.x", "x")], reaper)

        serving = int(log.read_text())
        os.kill(serving, 9)
        await eventually(lambda: reaper.is_child(serving))
        os.waitpid(serving, 0)

    run(act)


@private_mounts
def test_containerds_own_options_do_not_reach_a_program(rootfs: str, program: Callable[[str], Path]) -> None:
    log = program("touch $LOG")

    async def act(reaper: Reaper) -> None:
        with pytest.raises(InvalidArgumentError, match=r"X-containerd\.mkfs"):
            await mount_rootfs(rootfs, [Mount("fuse3.x", "x", "", ("X-containerd.mkfs.fs=ext4",))], reaper)

    run(act)
    assert not log.exists()


@private_mounts
def test_a_cancelled_call_kills_the_program_and_undoes_its_mount(
    rootfs: str, program: Callable[[str], Path]
) -> None:
    log = program('mount -t tmpfs tmpfs "$2"; echo $$ >$LOG; exec sleep 100')

    async def act(reaper: Reaper) -> None:
        call = asyncio.create_task(mount_rootfs(rootfs, [Mount("fuse3.x", "x")], reaper))
        await eventually(lambda: log.exists() and log.read_text().endswith("\n"))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.read_text()), 0)

    run(act)
    assert mounted_at(rootfs) == []


@private_mounts
def test_a_cancelled_call_waits_for_the_kernel_and_undoes_the_mount(
    rootfs: str, bind: Callable[..., Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted, go_on = threading.Event(), threading.Event()
    real = Rootfs.mount

    def slow(self: Rootfs, mount: Mount) -> None:
        real(self, mount)
        mounted.set()
        go_on.wait()

    monkeypatch.setattr(Rootfs, "mount", slow)

    async def act(reaper: Reaper) -> None:
        call = asyncio.create_task(mount_rootfs(rootfs, [bind()], reaper))
        await eventually(mounted.is_set)  # so the loop runs while a mount blocks
        for _ in range(3):
            call.cancel()
            await asyncio.sleep(0)
        assert not call.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert mounted_at(rootfs) == []

    run(act)


@private_mounts
def test_no_thread_stays(rootfs: str, bind: Callable[..., Mount]) -> None:
    before = {*threading.enumerate()}

    async def act(reaper: Reaper) -> None:
        for _ in range(3):
            await mount_rootfs(rootfs, [bind()], reaper)
            await unmount_rootfs(rootfs)
        await eventually(lambda: {*threading.enumerate()} <= before)

    run(act)
