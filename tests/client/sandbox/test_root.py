"""Root filesystems that cannot be used: said before anything is made, with what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shimpy
from shimpy.client.program import program

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def own(rootfs: Path) -> Iterator[Path]:
    """A root filesystem to change."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        copy = Path(directory, "rootfs")
        copy.mkdir()
        for name in ("bin", "dev", "proc", "sys", "tmp"):
            (copy / name).mkdir()
        shutil.copy(rootfs / "bin" / "busybox", copy / "bin")
        (copy / "bin" / "sh").symlink_to("busybox")
        yield copy


async def refused(root: Path, *args: str, **options: Any) -> str:
    """Returns what is said against it; nothing was made for it."""
    with pytest.raises(shimpy.ShimError) as error:
        await shimpy.run(root, args or ["sh", "-c", "exit 7"], **options)
    assert program.open().containers() == []
    assert [name for name in os.listdir(program.open().path) if name.startswith("tmp-")] == []
    return f"{type(error.value).__name__}: {error.value}"


async def test_a_root_that_cannot_be_reached_is_reached_by_the_remedy(own: Path) -> None:
    own.parent.chmod(0o700)
    own.chmod(0o750)
    said = await refused(own)
    assert f"InvalidArgumentError: rootfs: {own} cannot be reached by the ids" in said
    remedy = re.search(r"(chmod o\+rx [^,]*),", said)
    assert remedy is not None
    assert remedy[1] == f"chmod o+rx {own.parent} {own}"
    subprocess.run(remedy[1].split(), check=True)
    assert (await shimpy.run(own, ["sh", "-c", "exit 7"])).exit_status == 7


async def test_mount_points_that_are_not_there_are_made_by_the_remedy(own: Path) -> None:
    (own / "proc").rmdir()
    (own / "tmp").rmdir()
    said = await refused(own)
    remedy = re.search(r"mkdir -p .*", said)
    assert remedy is not None
    assert remedy[0] == f"mkdir -p {own}/proc {own}/tmp"
    subprocess.run(remedy[0].split(), check=True)
    assert (await shimpy.run(own, ["sh", "-c", "exit 7"])).exit_status == 7


async def test_without_a_user_namespace_neither_is_needed(own: Path) -> None:
    own.parent.chmod(0o700)
    (own / "tmp").rmdir()
    assert (await shimpy.run(own, ["sh", "-c", "exit 7"], userns=False)).exit_status == 7


async def test_the_machines_own_root_is_refused() -> None:
    assert "rootfs: / is this machine's own" in await refused(Path("/"))


@pytest.mark.parametrize("cwd", ["/proc/self/fd/7", "/proc", "/tmp/../proc/1", "/dev/fd/7", "//proc/x"])
async def test_a_directory_below_proc_is_refused(own: Path, cwd: str) -> None:
    assert f"InvalidArgumentError: cwd: {cwd} is not a directory to start in" in await refused(own, cwd=cwd)


@pytest.mark.parametrize("target", ["/proc/self/fd/7", "../proc/self/fd/7", "second"])
async def test_a_link_below_proc_is_refused(own: Path, target: str) -> None:
    (own / "first").symlink_to(target)
    (own / "second").symlink_to("/proc/self")
    assert "cwd: /proc" in await refused(own, cwd="/first")


async def test_links_that_lead_in_a_circle_are_refused(own: Path) -> None:
    (own / "link").symlink_to("link")
    assert "cwd: /link leads in a circle" in await refused(own, cwd="/link")


async def test_a_directory_that_is_not_there(own: Path) -> None:
    assert f"cwd: there is no /work in {own}; mkdir -p {own}/work" in await refused(own, cwd="/work")


async def test_a_program_that_is_not_there(own: Path) -> None:
    for name in ("no-such", "/bin/no-such", "bin/no-such"):
        assert f"NotFoundError: args: there is no program {name} in {own}" in await refused(own, name)


async def test_a_program_that_is_closed_is_opened_by_the_remedy(own: Path) -> None:
    for closed in (own / "bin" / "busybox", own / "bin"):
        closed.chmod(0o700)
        said = await refused(own)
        assert "PermissionDeniedError: args: sh: permission denied" in said
        remedy = re.search(r"chmod [^,]*,", said)
        assert remedy is not None
        subprocess.run(remedy[0].strip(",").split(), check=True)
    assert (await shimpy.run(own, ["sh", "-c", "exit 7"])).exit_status == 7


async def test_a_program_that_may_be_on_a_mount_is_not_looked_for(own: Path, tmp_path: Path) -> None:
    mount = shimpy.BindMount(own / "bin", "/tmp/bin")
    assert (await shimpy.run(own, ["/tmp/bin/sh", "-c", "exit 7"], mounts=[mount])).exit_status == 7
