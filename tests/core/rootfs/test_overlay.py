"""Overlays of many layers, and of layers with mapped owners."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.rootfs.mounts import Mount, mount_all
from shimpy.core.rootfs.overlay import LONGEST_DATA, shorten
from shimpy.core.rootfs.unmount import mounted_at
from shimpy.errors import InvalidArgumentError
from tests.support.namespaces import private_mounts

MAPPED = ("uidmap=0:100000:65536", "gidmap=0:100000:65536")


def size(mount: Mount) -> int:
    return len(",".join(mount.options))


@private_mounts
def test_an_overlay_shows_all_layers(rootfs: str, overlay: Callable[..., Mount]) -> None:
    mount_all(rootfs, [overlay(layers=3)])

    assert sorted(os.listdir(rootfs)) == ["0", "1", "2"]


@private_mounts
def test_more_layers_than_fit_a_page(rootfs: str, overlay: Callable[..., Mount]) -> None:
    mount = overlay(layers=100)
    assert size(mount) > 2 * LONGEST_DATA
    directory = os.getcwd()

    mount_all(rootfs, [mount])

    assert sorted(os.listdir(rootfs)) == sorted(map(str, range(100)))
    assert os.getcwd() == directory


@private_mounts
def test_the_layers_of_a_long_list_stay_in_order(rootfs: str, overlay: Callable[..., Mount]) -> None:
    mount = overlay(layers=100)
    lower = mount.options[0].removeprefix("lowerdir=").split(":")
    for layer in lower:
        Path(layer, "same").write_text(layer)

    mount_all(rootfs, [mount])

    assert Path(rootfs, "same").read_text() == lower[0]


@private_mounts
def test_more_layers_than_fit_in_any_way(rootfs: str, overlay: Callable[..., Mount]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"more than the \d+ that the kernel takes"):
        mount_all(rootfs, [overlay(layers=100, name="x" * 50)])


@private_mounts
def test_the_lower_layers_have_mapped_owners(rootfs: str, overlay: Callable[..., Mount]) -> None:
    mount_all(rootfs, [overlay(*MAPPED)])

    assert {os.stat(f"{rootfs}/{name}").st_uid for name in ("0", "1")} == {100000}
    assert mounted_at(rootfs) == [rootfs]


@private_mounts
def test_nobody_sees_how_layers_are_mapped(rootfs: str, overlay: Callable[..., Mount]) -> None:
    mount = overlay(*MAPPED)
    layer = mount.options[0].removeprefix("lowerdir=").split(":")[0]

    mount_all(rootfs, [mount])

    assert os.stat(f"{layer}/0").st_uid == 0
    assert mounted_at(os.path.dirname(layer)) == []


@private_mounts
def test_a_mapped_overlay_can_be_written_to(rootfs: str, overlay: Callable[..., Mount]) -> None:
    mount_all(rootfs, [overlay(*MAPPED)])

    Path(rootfs, "0").write_text("other")

    assert Path(rootfs, "0").read_text() == "other"


@private_mounts
def test_many_layers_with_mapped_owners(rootfs: str, overlay: Callable[..., Mount]) -> None:
    mount = overlay(*MAPPED, layers=100)
    assert size(mount) > 2 * LONGEST_DATA

    mount_all(rootfs, [mount])

    assert {os.stat(f"{rootfs}/{number}").st_uid for number in range(100)} == {100000}


def test_layers_are_named_relative_to_the_directory_that_they_are_in() -> None:
    options = ["index=off", "lowerdir=/a/snapshots/12/fs:/a/snapshots/1/fs", "upperdir=/b"]

    assert shorten(options) == ("/a/snapshots", ["index=off", "lowerdir=12/fs:1/fs", "upperdir=/b"])


def test_a_layer_that_others_are_in_has_a_name_too() -> None:
    assert shorten(["lowerdir=/a/b:/a/b/c"]) == ("/a", ["lowerdir=b:b/c"])


@pytest.mark.parametrize("lower", ["relative:/a/b", "/a/../b:/a/c", "/a//b:/a/c", ""])
def test_paths_that_cannot_be_cut_stay(lower: str) -> None:
    assert shorten([f"lowerdir={lower}"]) == ("/", [f"lowerdir={lower}"])


def test_an_escaped_colon_does_not_part_layers() -> None:
    assert shorten([r"lowerdir=/a\:b/c/1:/a\:b/c/2"]) == ("/a:b/c", ["lowerdir=1:2"])


@private_mounts
def test_a_colon_in_a_path_is_escaped(rootfs: str, tmp_path: Path) -> None:
    lower = []
    for number in range(100):
        layer = tmp_path / "with:colon" / f"layer{number}"
        layer.mkdir(parents=True)
        (layer / str(number)).touch()
        lower.append(str(layer).replace(":", r"\:"))
    mount = Mount("overlay", "overlay", "", ("lowerdir=" + ":".join(lower),))

    mount_all(rootfs, [mount])

    assert len(os.listdir(rootfs)) == 100
