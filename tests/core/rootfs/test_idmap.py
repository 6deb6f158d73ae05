"""Mounts that show other owners."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.rootfs.mounts import Mount, mount_all
from shimpy.core.rootfs.unmount import mounted_at
from shimpy.errors import InvalidArgumentError
from tests.support.leaks import children
from tests.support.namespaces import private_mounts

MAPPED = ("uidmap=0:100000:65536", "gidmap=0:200000:65536")


@private_mounts
def test_owners_of_a_bind_mount_are_mapped(rootfs: str, bind: Callable[..., Mount]) -> None:
    mount_all(rootfs, [bind(*MAPPED)])

    owner = os.stat(f"{rootfs}/file")
    assert (owner.st_uid, owner.st_gid) == (100000, 200000)
    assert mounted_at(rootfs) == [rootfs]


@private_mounts
def test_a_mapped_bind_mount_is_read_only_if_asked(rootfs: str, bind: Callable[..., Mount]) -> None:
    mount_all(rootfs, [bind("ro", *MAPPED)])

    assert os.stat(f"{rootfs}/file").st_uid == 100000
    assert not os.access(f"{rootfs}/file", os.W_OK)


@private_mounts
def test_what_is_mounted_below_a_mapped_bind_mount_is_mapped_too(tmp_path: Path, rootfs: str) -> None:
    source = tmp_path / "tree"
    (source / "inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "deep").touch()
    mount_all(str(source), [Mount("bind", str(tmp_path / "other"), "inner", ("bind",))])

    mount_all(rootfs, [Mount("bind", str(source), "", ("rbind", *MAPPED))])

    assert os.stat(f"{rootfs}/inner/deep").st_uid == 100000


@private_mounts
def test_several_ranges_of_ids_are_mapped(rootfs: str, bind: Callable[..., Mount], tmp_path: Path) -> None:
    os.chown(tmp_path / "source" / "inner", 7, 7)
    ranges = "0:100000:5,5:300000:10"

    mount_all(rootfs, [bind(f"uidmap={ranges}", f"gidmap={ranges}")])

    assert [os.stat(f"{rootfs}/{name}").st_uid for name in ("file", "inner")] == [100000, 300002]


@private_mounts
def test_a_failed_mapping_leaves_nothing(rootfs: str) -> None:
    with pytest.raises(InvalidArgumentError):
        mount_all(rootfs, [Mount("proc", "proc", "", MAPPED)])

    assert mounted_at(rootfs) == []


@private_mounts
def test_nothing_of_making_a_user_namespace_stays(rootfs: str, bind: Callable[..., Mount]) -> None:
    before = os.listdir("/proc/self/fd")

    mount_all(rootfs, [bind(*MAPPED)])

    assert os.listdir("/proc/self/fd") == before
    assert children() == {}
