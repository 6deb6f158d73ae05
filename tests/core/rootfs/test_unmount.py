"""Unmounting, and that loop devices go with what was mounted from them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.rootfs import loop, unmount
from shimpy.core.rootfs.mounts import Mount, mount_all
from shimpy.core.rootfs.unmount import mounted_at, unmount_all
from tests.support.loops import backing
from tests.support.namespaces import private_mounts


@private_mounts
def test_everything_below_is_unmounted(
    rootfs: str, bind: Callable[..., Mount], caplog: pytest.LogCaptureFixture
) -> None:
    mount_all(rootfs, [bind(), bind(target="inner"), Mount("tmpfs", "tmpfs", "inner/inner")])

    unmount_all(rootfs)

    assert mounted_at(rootfs) == []
    assert caplog.records == []  # nothing was in use, as a mount is that others are below


@private_mounts
def test_what_is_mounted_over_one_another_is_unmounted(rootfs: str, bind: Callable[..., Mount]) -> None:
    mount_all(
        rootfs, [bind(target=""), bind(target="inner"), Mount("tmpfs", "tmpfs"), Mount("tmpfs", "tmpfs")]
    )

    unmount_all(rootfs)

    assert mounted_at(rootfs) == []


@private_mounts
def test_a_neighbour_of_a_similar_name_stays(tmp_path: Path, rootfs: str) -> None:
    neighbour = tmp_path / "rootfs-2"
    neighbour.mkdir()
    mount_all(str(neighbour), [Mount("tmpfs", "tmpfs")])
    mount_all(rootfs, [Mount("tmpfs", "tmpfs")])

    unmount_all(rootfs)

    assert mounted_at(str(neighbour)) == [str(neighbour)]


@private_mounts
def test_twice_and_without_a_directory_it_does_nothing(tmp_path: Path, rootfs: str) -> None:
    unmount_all(rootfs)
    unmount_all(str(tmp_path / "missing"))


@private_mounts
def test_a_path_with_blanks_and_through_links(tmp_path: Path) -> None:
    real = tmp_path / "a b\n\\é"
    (real / "rootfs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    path = str(tmp_path / "link" / "rootfs")
    mount_all(path, [Mount("tmpfs", "tmpfs")])
    assert mounted_at(path) == [str(real / "rootfs")]

    unmount_all(path)

    assert mounted_at(path) == []


@private_mounts
def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path, rootfs: str) -> None:
    mount_all(rootfs, [Mount("tmpfs", "tmpfs")])
    (tmp_path / "link").symlink_to(rootfs)

    unmount_all(str(tmp_path / "link"))

    assert mounted_at(rootfs) == [rootfs]


@private_mounts
def test_what_is_in_use_is_waited_for(rootfs: str, bind: Callable[..., Mount]) -> None:
    mount_all(rootfs, [bind()])
    opened = os.open(f"{rootfs}/file", os.O_RDONLY)
    threading.Timer(0.2, os.close, [opened]).start()
    began = time.monotonic()

    unmount_all(rootfs)

    assert 0.1 < time.monotonic() - began < 2.4
    assert mounted_at(rootfs) == []


@private_mounts
def test_what_stays_in_use_is_detached(
    rootfs: str, bind: Callable[..., Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unmount, "_BUSY_FOR", 0.1)
    mount_all(rootfs, [bind(), bind(target="inner")])
    with open(f"{rootfs}/file") as file, open(f"{rootfs}/inner/file") as inner:
        unmount_all(rootfs)

        assert mounted_at(rootfs) == []
        assert file.read() == inner.read() == "content"


def test_where_nothing_is_mounted_no_library_is_loaded(tmp_path: Path) -> None:
    program = (
        "import sys; from shimpy.core.rootfs.unmount import unmount_all;"
        f"unmount_all({str(tmp_path)!r});"
        "print(sorted({'asyncio', 'ctypes', 'shimpy.errors'} & {*sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert ran.stdout.strip() == "[]"


@private_mounts
def test_a_loop_device_is_freed_with_its_mount(rootfs: str, image: str) -> None:
    mount_all(rootfs, [Mount("ext4", image, "", ("loop",))])
    (device,) = backing(image)
    assert Path(f"/sys/block/{device}/loop/autoclear").read_text().strip() == "1"
    Path(rootfs, "written").write_text("written")

    unmount_all(rootfs)


@private_mounts
def test_a_loop_device_is_freed_if_the_mount_fails(rootfs: str, image: str) -> None:
    with pytest.raises(Exception, match="cannot mount squashfs"):
        mount_all(rootfs, [Mount("squashfs", image, "", ("loop",))])


@private_mounts
def test_a_read_only_image_is_not_written_to(rootfs: str, image: str) -> None:
    before = Path(image).read_bytes()

    mount_all(rootfs, [Mount("ext4", image, "", ("loop", "ro"))])
    (device,) = backing(image)
    assert Path(f"/sys/block/{device}/ro").read_text().strip() == "1"
    unmount_all(rootfs)

    assert Path(image).read_bytes() == before


@private_mounts
def test_a_loop_device_that_somebody_else_takes_first_is_not_ours(
    rootfs: str, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., object] = fcntl.ioctl
    other = shutil.copy(image, tmp_path / "other")

    with contextlib.ExitStack() as theirs:
        taken: list[str] = []

        def race(fd: int, request: int, *arguments: bytes) -> object:
            result = real(fd, request, *arguments)
            if not taken:
                taken.append("")
                device = loop.loop_device(str(other), read_only=True, direct_io=False)
                taken[0] = theirs.enter_context(device)
                assert taken[0] == f"/dev/loop{result}"
            return result

        monkeypatch.setattr(fcntl, "ioctl", race)
        mount_all(rootfs, [Mount("ext4", image, "", ("loop", "ro"))])

        assert taken[0].removeprefix("/dev/") not in backing(image)
    unmount_all(rootfs)
