"""Mount options, taken apart."""

from __future__ import annotations

import pytest

from shimpy.core.rootfs import syscalls
from shimpy.core.rootfs.options import MountOptions, parse_options
from shimpy.errors import InvalidArgumentError

RO, NOSUID, BIND, REC = syscalls.MS_RDONLY, syscalls.MS_NOSUID, syscalls.MS_BIND, syscalls.MS_REC


def test_what_is_not_known_is_the_filesystems() -> None:
    assert parse_options(["ro", "size=4m", "nosuid", "mode=755"]) == MountOptions(
        flags=RO | NOSUID, data=("size=4m", "mode=755")
    )


def test_the_later_of_two_opposites_counts() -> None:
    assert parse_options(["ro", "rw"]) == MountOptions(cleared=RO)
    assert parse_options(["rw", "ro"]) == MountOptions(flags=RO)


def test_defaults_is_not_an_option_of_the_filesystem() -> None:
    assert parse_options(["defaults"]) == MountOptions()


def test_a_recursive_bind() -> None:
    assert parse_options(["rbind"]).flags == BIND | REC


def test_propagation_is_no_flag_of_the_mount_itself() -> None:
    assert parse_options(["rbind", "rslave"]) == MountOptions(
        flags=BIND | REC, propagation=syscalls.MS_SLAVE | REC
    )


def test_the_last_propagation_counts() -> None:
    assert parse_options(["rshared", "private"]).propagation == syscalls.MS_PRIVATE


def test_direct_io_is_the_loop_devices() -> None:
    assert parse_options(["loop", "direct-io"]) == MountOptions(loop=True, direct_io=True)


def test_direct_io_without_a_loop_device_is_the_filesystems() -> None:
    assert parse_options(["direct-io"]) == MountOptions(data=("direct-io",))


def test_id_mappings_are_not_the_filesystems() -> None:
    assert parse_options(["uidmap=0:1:2", "gidmap=0:3:4"]) == MountOptions(uid_map="0:1:2", gid_map="0:3:4")


@pytest.mark.parametrize("option", ["uidmap=0:1:2", "gidmap=0:1:2"])
def test_half_of_the_id_mappings_is_refused(option: str) -> None:
    with pytest.raises(InvalidArgumentError, match="both or not at all"):
        parse_options([option])


def test_what_containerd_should_have_acted_on_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgumentError, match=r"X-containerd\.mkdir\.path=/a"):
        parse_options(["ro", "X-containerd.mkdir.path=/a"])
