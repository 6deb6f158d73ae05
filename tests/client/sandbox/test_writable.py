"""A root filesystem that a sandbox may write to: who owns what it leaves, and who may get at it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shimpy
from shimpy.client.program import program
from tests.support import leaks

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

_PLACES = Path("/run/shimpy-roots")


def attached() -> list[str]:
    """Returns the roots of this program that are attached."""
    return [name for name in os.listdir(_PLACES) if name.startswith(program.open().name)]


def may_reach(path: Path, user: int = 12345) -> bool:
    """Returns whether a user of this machine gets to a file, in any way that the kernel knows."""
    done = subprocess.run(
        ["stat", path],
        user=user,
        group=user,
        extra_groups=[],
        cwd="/",
        check=False,
        capture_output=True,
    )
    assert not done.returncode or b"Permission denied" in done.stderr
    return done.returncode == 0


@pytest.fixture
def closed(closed_rootfs: Path) -> Iterator[Path]:
    """A root filesystem that nobody but root can get to; none is attached after the test."""
    yield closed_rootfs
    assert attached() == []


async def said(root: Path, script: str, **options: object) -> str:
    """Returns what a shell script prints in a sandbox that may write to its root."""
    arguments = ["sh", "-c", f"exec 2>&1; {script}"]
    result = await shimpy.run(root, arguments, read_only=False, **options)  # type: ignore[arg-type]
    return result.stdout.decode()


async def refused(root: Path) -> str:
    """Returns what is said against a root that a sandbox is to write to; nothing was made for it."""
    with pytest.raises(shimpy.ShimError) as error:
        await said(root, "touch /made")
    assert not (root / "made").exists()
    assert [name for name in os.listdir(program.open().path) if name.startswith("tmp-")] == []
    return f"{type(error.value).__name__}: {error.value}"


async def test_what_it_writes_stays_and_belongs_to_who_owns_the_folder(closed: Path) -> None:
    assert await said(closed, "umask 022; echo one >/file; mkdir -p /etc/new; stat -c %u:%g /file") == "0:0\n"
    assert (closed / "file").read_text() == "one\n"
    for path in (closed / "file", closed / "etc" / "new"):
        assert (path.stat().st_uid, path.stat().st_gid) == (0, 0)


async def test_users_are_the_same_on_the_disk_as_inside(closed: Path) -> None:
    (closed / "home").mkdir()
    os.chown(closed / "home", 1000, 100)
    assert await said(closed, "echo >/home/x; echo >/no", user=shimpy.User(1000, 100)) == (
        "sh: can't create /no: Permission denied\n"
    )
    assert ((closed / "home/x").stat().st_uid, (closed / "home/x").stat().st_gid) == (1000, 100)


async def test_what_one_has_written_another_with_other_ids_may_change(closed: Path) -> None:
    outside = [await said(closed, "echo >>/file; cat /proc/self/uid_map") for _ in range(2)]
    assert (closed / "file").read_text() == "\n\n"
    assert outside[0] != outside[1]


async def test_nobody_gets_to_a_program_that_it_marks_set_user_id(
    closed: Path, new_id: Callable[[], str]
) -> None:
    async with (
        shimpy.temporary_bundle(closed, ["sleep", "1000000"], read_only=False) as bundle,
        shimpy.in_process() as shim,
        shim.container(new_id(), bundle) as container,
    ):
        script = "cp /bin/busybox /evil && chmod 4777 /evil && chmod 777 / && stat -c %a /evil"
        assert (await container.run(["sh", "-c", script])).stdout == b"4777\n"
        status = (closed / "evil").stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o4777)
        (name,) = attached()
        assert (_PLACES / name / "root" / "evil").exists()
        assert not may_reach(closed / "evil")
        assert not may_reach(_PLACES / name / "root" / "evil")


async def test_no_program_has_the_rights_of_its_owner_and_no_file_is_a_device(closed: Path) -> None:
    mount = (await said(closed, "head -n 1 /proc/self/mountinfo")).split()
    assert mount[4] == "/"
    assert {"nosuid", "nodev", "rw"} <= {*mount[5].split(",")}


async def test_files_are_put_there_for_root_inside(closed: Path, new_id: Callable[[], str]) -> None:
    async with (
        shimpy.temporary_bundle(closed, ["sleep", "1000000"], read_only=False) as bundle,
        shimpy.launch() as shim,
        shim.container(new_id(), bundle) as container,
    ):
        await container.write_file("/program", b"stat -c %u /program")
        assert (await container.run(["sh", "/program"])).stdout == b"0\n"
    assert (closed / "program").stat().st_uid == 0


async def test_what_is_missing_to_mount_on_is_made(closed: Path) -> None:
    (closed / "proc").rmdir()
    assert await said(closed, "echo /proc/1/comm", cwd="/work/new") == "/proc/1/comm\n"
    assert (closed / "work" / "new").is_dir()


async def test_what_only_root_may_run_is_run(closed: Path) -> None:
    (closed / "bin" / "busybox").chmod(0o700)
    assert await said(closed, "echo it") == "it\n"


async def test_a_root_that_others_can_reach_is_refused_until_it_is_moved(
    closed: Path, tmp_path: Path
) -> None:
    closed.parent.chmod(0o711)
    # The container could open it again.
    closed.chmod(0o700)
    reason = await refused(closed)
    assert reason.startswith(f"InvalidArgumentError: read_only: {closed} can be reached by others than root")
    assert "move it below a directory of mode 0700 that belongs to root" in reason
    inner = closed.parent / "inner"
    inner.mkdir(mode=0o700)
    closed.rename(inner / "rootfs")
    assert await said(inner / "rootfs", "echo it") == "it\n"


async def test_a_directory_that_is_anothers_is_not_closed(closed: Path) -> None:
    os.chown(closed.parent, 12345, -1)
    assert "can be reached by others than root" in await refused(closed)


@contextlib.contextmanager
def mounted(*options: object) -> Iterator[Path]:
    """Mounts something in a place that is open to everybody."""
    with tempfile.TemporaryDirectory(prefix="shimpy-tests-", dir="/var/tmp") as place:
        Path(place).chmod(0o755)
        subprocess.run(["mount", *map(str, options), place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("part", ["rootfs", "rootfs/bin"])
async def test_a_root_that_is_mounted_where_it_can_be_reached_is_refused(closed: Path, part: str) -> None:
    with mounted("--bind", closed.parent / part) as place:
        assert may_reach(place)
        assert f"at {place} too, where it is mounted" in await refused(closed)
    assert await said(closed, "echo it") == "it\n"


async def test_a_root_that_is_mounted_with_what_closes_it_is_not_refused(closed: Path) -> None:
    with mounted("--bind", closed.parent) as place:
        assert not may_reach(place / "rootfs")
        assert await said(closed, "echo it") == "it\n"


async def test_a_root_on_a_mount_that_gives_no_rights_is_not_refused(closed: Path) -> None:
    with mounted("--bind", closed) as place:
        subprocess.run(["mount", "-o", "remount,bind,nosuid", place], check=True)
        assert await said(closed, "echo it") == "it\n"


async def test_a_root_that_is_a_mount_of_its_own(closed: Path) -> None:
    with mounted("-t", "tmpfs", "none") as place:
        place.chmod(0o755)
        shutil.copytree(closed, place / "rootfs", symlinks=True)
        inner = closed.parent / "mounted"
        inner.mkdir()
        subprocess.run(["mount", "--bind", place / "rootfs", inner], check=True)
        try:
            assert f"at {place}/rootfs too, where it is mounted" in await refused(inner)
            place.chmod(0o700)
            assert await said(inner, "echo it") == "it\n"
        finally:
            subprocess.run(["umount", inner], check=True)


async def test_a_filesystem_that_cannot_map_ids_is_said(closed: Path) -> None:
    layers = [closed.parent / name for name in ("upper", "work", "overlay")]
    for layer in layers:
        layer.mkdir()
    upper, work, overlay = layers
    options = f"lowerdir={closed},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", overlay], check=True)
    try:
        reason = await refused(overlay)
        assert f"FailedPreconditionError: read_only: the owners of {overlay} cannot be mapped" in reason
    finally:
        subprocess.run(["umount", overlay], check=True)


async def test_it_is_gone_when_the_command_is_cancelled(closed: Path) -> None:
    running = asyncio.ensure_future(said(closed, "sleep 1000000"))
    await leaks.eventually(lambda: any(one.pid for one in program.open().containers()))
    assert len(attached()) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert attached() == []
