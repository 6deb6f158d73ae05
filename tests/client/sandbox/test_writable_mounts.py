"""Folders and files of the host's that a sandbox may write to: what works, whose it is, what is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import shimpy
from shimpy.client.program import program

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

_PLACES = Path("/run/shimpy-roots")


@pytest.fixture
def closed(closed_rootfs: Path) -> Iterator[Path]:
    """A folder that nobody but root can get to; nothing is attached after the test."""
    folder = closed_rootfs.parent / "folder"
    folder.mkdir(mode=0o755)
    yield folder
    assert [name for name in os.listdir(_PLACES) if name.startswith(program.open().name)] == []


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that anybody can get to, and only root may write to."""
    with tempfile.TemporaryDirectory(prefix="shimpy-tests-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        folder = Path(directory, "folder")
        folder.mkdir(mode=0o755)
        yield folder


async def said(root: Path, source: Path, script: str, **options: object) -> str:
    """Returns what a shell script prints in a sandbox that may write to something at /tmp/it."""
    arguments = ["sh", "-c", f"exec 2>&1; {script}"]
    mounts = [shimpy.BindMount(source, "/tmp/it", read_only=False)]
    result = await shimpy.run(root, arguments, mounts=mounts, **options)  # type: ignore[arg-type]  # any option
    return result.stdout.decode()


async def refused(root: Path, source: Path) -> str:
    """Returns what is said against something that a sandbox is to write to."""
    with pytest.raises(shimpy.ShimError) as error:
        await said(root, source, "echo it")
    assert [name for name in os.listdir(program.open().path) if name.startswith("tmp-")] == []
    return f"{type(error.value).__name__}: {error.value}"


async def test_what_it_writes_in_a_folder_belongs_to_root(rootfs: Path, closed: Path) -> None:
    assert await said(rootfs, closed, "echo one >/tmp/it/file; stat -c %u:%g /tmp/it/file") == "0:0\n"
    status = (closed / "file").stat()
    assert ((closed / "file").read_text(), status.st_uid, status.st_gid) == ("one\n", 0, 0)


async def test_users_are_the_same_in_a_folder_as_on_the_disk(rootfs: Path, closed: Path) -> None:
    os.chown(closed, 1000, 100)
    assert await said(rootfs, closed, "echo >/tmp/it/x", user=shimpy.User(1000, 100)) == ""
    assert ((closed / "x").stat().st_uid, (closed / "x").stat().st_gid) == (1000, 100)
    assert "Permission denied" in await said(rootfs, closed, "echo >/tmp/it/y", user=shimpy.User(7))


async def test_a_file_is_written_to(rootfs: Path, closed: Path) -> None:
    (closed / "file").write_text("one\n")
    assert await said(rootfs, closed / "file", "echo two >>/tmp/it") == ""
    assert (closed / "file").read_text() == "one\ntwo\n"


async def test_a_folder_beside_a_root_to_write_to(closed_rootfs: Path, closed: Path) -> None:
    assert await said(closed_rootfs, closed, "echo >/tmp/it/x; echo >/x", read_only=False) == ""
    assert (closed / "x").exists()
    assert (closed_rootfs / "x").exists()


async def test_a_bundle_that_gets_a_user_namespace(rootfs: Path, closed: Path, tmp_path: Path) -> None:
    bundle = await shimpy.write_bundle(tmp_path / "bundle", ["true"], rootfs=rootfs, userns=False)
    assert await said(bundle, closed, "echo >/tmp/it/x", userns=True) == ""
    assert (closed / "x").stat().st_uid == 0


async def test_what_is_to_be_read_is_not_owned(rootfs: Path, closed: Path) -> None:
    async with shimpy.temporary_bundle(
        rootfs, ["true"], mounts=[shimpy.BindMount(closed, "/tmp/it")]
    ) as bundle:
        mounts = json.loads((bundle / "config.json").read_text())["mounts"]
    assert str(closed) in [mount["source"] for mount in mounts]


async def test_nobody_gets_to_a_program_that_it_marks_set_user_id(rootfs: Path, closed: Path) -> None:
    script = "cp /bin/busybox /tmp/it/evil && chmod 4777 /tmp/it/evil && chmod 777 /tmp/it"
    assert await said(rootfs, closed, script) == ""
    assert stat.S_IMODE((closed / "evil").stat().st_mode) == 0o4777
    done = subprocess.run(
        ["stat", closed / "evil"], user=12345, group=12345, extra_groups=[], capture_output=True, check=False
    )
    assert b"Permission denied" in done.stderr


async def test_no_program_has_the_rights_of_its_owner_there(rootfs: Path, closed: Path) -> None:
    options = (await said(rootfs, closed, "grep ' /tmp/it ' /proc/self/mountinfo")).split()[5]
    assert {"nosuid", "nodev", "rw"} <= {*options.split(",")}


async def test_what_others_can_reach_is_refused_with_what_to_do(rootfs: Path, reachable: Path) -> None:
    reason = await refused(rootfs, reachable)
    assert reason.startswith(f"InvalidArgumentError: mounts: {reachable} can be reached by others than root")
    assert reason.endswith(
        "move it below a directory of mode 0700 that belongs to root, or chmod o+w it, mount it read-only, "
        "or give userns=False"
    )
    assert await said(rootfs, reachable, "echo >/tmp/it/x", userns=False) == ""


async def test_what_everybody_may_write_to_is_no_one_s(rootfs: Path, reachable: Path) -> None:
    reachable.chmod(0o777)
    assert await said(rootfs, reachable, "echo >/tmp/it/x") == ""
    assert (reachable / "x").stat().st_uid >= 0x78000000


async def test_a_file_with_a_second_name_is_refused(rootfs: Path, closed: Path) -> None:
    (closed / "file").touch(mode=0o644)
    os.link(closed / "file", closed.parent / "other")
    assert "more names than this" in await refused(rootfs, closed / "file")


async def test_a_filesystem_that_cannot_map_ids_is_said(rootfs: Path, closed: Path) -> None:
    layers = [closed / name for name in ("lower", "upper", "work", "overlay")]
    for layer in layers:
        layer.mkdir()
    lower, upper, work, overlay = layers
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", overlay], check=True)
    try:
        reason = await refused(rootfs, overlay)
        assert f"FailedPreconditionError: mounts: the owners of {overlay} cannot be mapped" in reason
        overlay.chmod(0o777)
        assert await said(rootfs, overlay, "echo >/tmp/it/x") == ""
    finally:
        subprocess.run(["umount", overlay], check=True)
