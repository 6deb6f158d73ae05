"""The files of procfs and the like answer to the rights of who opens them: the host's root sees all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import shimpy
from shimpy.client.files.read import read
from shimpy.client.files.tree import FileTree
from shimpy.errors import CanceledError
from tests.support.sandboxes import sandbox, sh

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "path", ["/proc/iomem", "/proc/kmsg", "/proc/1/environ", "/sys/kernel/uevent_seqnum"]
)
async def test_a_link_to_a_file_of_the_kernel_is_not_read(
    container: shimpy.Container, tmp_path: Path, path: str
) -> None:
    await sh(container, f"ln -s {path} /tmp/link")
    async with asyncio.timeout(30):  # what comes from kmsg ends only with the machine
        with pytest.raises(
            shimpy.PermissionDeniedError, match=r"/tmp/link is in (proc|sys)fs.*container\.run"
        ):
            await container.read_file("/tmp/link")
        with pytest.raises(shimpy.PermissionDeniedError, match="/tmp/link is in"):
            await container.get("/tmp/link", tmp_path / "out")
        with pytest.raises(shimpy.PermissionDeniedError, match="/tmp/link is in"):
            async with container.get_archive("/tmp/link") as archive:
                await archive.receive()
    assert not (tmp_path / "out").exists()


async def test_a_directory_of_the_kernel_is_not_copied(container: shimpy.Container, tmp_path: Path) -> None:
    with pytest.raises(shimpy.PermissionDeniedError, match="/proc/sys is in procfs"):
        await container.get("/proc/sys", tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_nothing_is_written_into_a_directory_of_the_kernel(
    container: shimpy.Container, tmp_path: Path
) -> None:
    (tmp_path / "hostname").write_text("other")
    await sh(container, "ln -s /proc/sys/kernel /tmp/link")
    before = await sh(container, "hostname")
    for write in (
        container.write_file("/tmp/link/hostname", "other"),
        container.put(tmp_path / "hostname", "/tmp/link"),
    ):
        with pytest.raises(shimpy.PermissionDeniedError, match="hostname is in procfs"):
            await write
    assert await sh(container, "hostname") == before


async def test_what_the_kernel_has_mounted_in_a_folder_is_left_out(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"] += [
            {
                "destination": "/dev/kernel/version",
                "type": "bind",
                "source": "/proc/version",
                "options": ["bind"],
            },
            {"destination": "/dev/kernel/sys", "type": "bind", "source": "/proc/sys", "options": ["bind"]},
        ]

    async with sandbox(bundle, new_id(), change=change) as container:
        await sh(container, "echo data >/dev/kernel/file")
        await container.get("/dev/kernel", tmp_path)
        with pytest.raises(shimpy.PermissionDeniedError, match="version is in procfs"):
            await container.write_file("/dev/kernel/version", "other")
    kernel = tmp_path / "kernel"
    assert {path.name for path in kernel.iterdir()} == {"file", "sys"}
    assert list((kernel / "sys").iterdir()) == []


def test_a_read_that_is_to_end_reads_no_further(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    tree, stop = FileTree(os.open(tmp_path, os.O_PATH)), Event()
    try:
        assert read(tree, "file", 4, stop) == b"data"
        stop.set()
        with pytest.raises(CanceledError):
            read(tree, "file", 4, stop)
    finally:
        tree.close()
