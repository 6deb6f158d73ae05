"""What the known ways out of containers meet in a sandbox; the table is in docs/pages/guides/sandbox.md.

This machine's runtime may have some of them. So each is tried as if its trick had worked, where that can be
made: what is behind the wall of the runtime is the wall that a sandbox adds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import shimpy
from tests.support.machine import RUNTIME

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

# Files of the kernel's that a host's root would act on the machine by.
_HANDLES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/fs/file-max",
    "/sys/kernel/uevent_helper",
)


def _digest() -> str:
    path = shutil.which(RUNTIME)
    assert path is not None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


async def test_the_runtimes_program_cannot_be_written_to(rootfs: Path) -> None:
    """CVE-2019-5736: /proc/self/exe of what the runtime becomes is opened for writing, again and again."""
    before = _digest()
    script = (
        "for n in $(seq 50); do for p in /proc/[0-9]*; do echo x 2>/dev/null >$p/exe && echo $p; done; done"
    )
    async with (
        shimpy.temporary_bundle(rootfs, ["sh", "-c", f"({script}) >/tmp/written; sleep 1000"]) as bundle,
        shimpy.in_process() as client,
        client.container("escape-exe", bundle) as container,
    ):
        for _ in range(3):
            await container.run(["/proc/self/exe", "--version"])
        assert await container.read_file("/tmp/written") == b""
    assert _digest() == before


async def test_a_mount_point_that_is_a_link_mounts_nothing_outside(rootfs: Path, tmp_path: Path) -> None:
    """CVE-2021-30465: what is mounted on is exchanged for a link that leads out."""
    target = tmp_path / "target"
    target.mkdir()
    own = rootfs.parent / "linked"
    own.mkdir()
    try:
        for name in ("bin", "dev", "proc", "sys"):
            (own / name).mkdir()
        shutil.copy(rootfs / "bin" / "busybox", own / "bin" / "sh")
        (own / "tmp").symlink_to(f"../../../../..{target}")
        with pytest.raises(shimpy.InvalidArgumentError, match="nothing to mount on at"):
            await shimpy.run(own, ["sh", "-c", "echo x >/tmp/x"])
        assert list(target.iterdir()) == []
        assert str(target) not in Path("/proc/self/mountinfo").read_text()
    finally:
        shutil.rmtree(own)


@pytest.mark.parametrize("cwd", ["/proc/self/fd/7", "/proc/self/fd/8/../../..", "/dev/fd/7"])
async def test_a_file_descriptor_is_no_directory_to_start_in(
    rootfs: Path, new_id: Callable[[], str], cwd: str
) -> None:
    """CVE-2024-21626: the runtime's own file descriptor of the host's cgroups."""
    with pytest.raises(shimpy.InvalidArgumentError, match="not a directory to start in"):
        await shimpy.run(rootfs, ["true"], cwd=cwd)
    async with (
        shimpy.temporary_bundle(rootfs, ["sleep", "1000"]) as bundle,
        shimpy.in_process() as client,
        client.container(new_id(), bundle) as container,
    ):
        with pytest.raises(shimpy.InvalidArgumentError, match="not a directory to start in"):
            await container.run(["true"], cwd=cwd)


async def test_where_no_path_is_masked_the_kernels_files_are_still_not_writable(
    rootfs: Path, tmp_path: Path
) -> None:
    """CVE-2025-31133, -52565, -52881: masks, /dev/console or writes that lead elsewhere leave procfs open."""
    async with shimpy.temporary_bundle(rootfs, ["true"], seccomp=False) as made:
        config = json.loads((made / "config.json").read_text())
        config["linux"] |= {"maskedPaths": [], "readonlyPaths": []}
        for mount in config["mounts"]:
            mount["options"] = [option for option in mount["options"] if option != "ro"]
        paths = [path for path in _HANDLES if os.path.exists(path)]
        script = f"for p in {' '.join(paths)}; do (echo x >$p) 2>/dev/null && echo $p; done; echo done"
        config["process"]["args"] = ["sh", "-c", script]
        (tmp_path / "config.json").write_text(json.dumps(config))
        result = await shimpy.run(tmp_path)
    assert (result.stdout, len(paths) >= 3) == (b"done\n", True)


async def test_cgroups_can_be_neither_mounted_nor_left(rootfs: Path) -> None:
    """CVE-2022-0492: a release_agent of version 1 is run by the host's root."""
    result = await shimpy.run(rootfs, ["sh", "-c", "mount -t cgroup -o memory x /tmp; unshare -Ur true"])
    errors = result.stderr.decode().splitlines()
    assert all("not permitted" in line or "permission denied" in line for line in errors)
    assert (len(errors), result.stdout) == (2, b"")


async def test_of_cgroups_its_own_is_there_to_be_read(rootfs: Path) -> None:
    script = """
        cd /sys/fs/cgroup
        cut -d: -f3 /proc/self/cgroup | sort -u
        find . -name release_agent
        for each in $(find . -name cgroup.procs); do
            echo 0 >$each; mkdir ${each%cgroup.procs}new; mount -o remount,bind,rw ${each%cgroup.procs}
        done 2>&1 | grep -v -e 'Read-only file system' -e 'permission denied'
    """
    result = await shimpy.run(rootfs, ["sh", "-c", script])
    assert result.stdout == b"/\n"


@pytest.mark.parametrize("kind", ["c 1 1", "b 254 0"])
async def test_a_device_cannot_be_made(rootfs: Path, kind: str) -> None:
    result = await shimpy.run(rootfs, ["mknod", "/tmp/device", *kind.split()])
    assert (result.exit_status, b"Operation not permitted" in result.stderr) == (1, True)


async def test_no_process_of_the_host_is_seen_or_signalled(rootfs: Path) -> None:
    script = f"kill -9 {os.getpid()}; kill -9 -1; ls -d /proc/[0-9]* | wc -l; ls /proc/1/root"
    result = await shimpy.run(rootfs, ["sh", "-c", script])
    assert int(result.stdout.split()[0]) <= 4


async def test_root_of_a_container_may_not_read_what_is_only_the_hosts_roots(
    rootfs: Path, tmp_path: Path
) -> None:
    secret = rootfs / "etc" / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    try:
        result = await shimpy.run(rootfs, ["cat", "/etc/secret"])
        assert (result.stdout, b"Permission denied" in result.stderr) == (b"", True)
    finally:
        secret.unlink()
