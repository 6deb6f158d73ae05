"""A runtime's options: what containerd's TOML says, and what stays in the bundle."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest

from shimpy.core.runtime.options import RuntimeOptions
from shimpy.errors import InternalError, InvalidArgumentError, NotFoundError, ShimError

ALL = RuntimeOptions(
    binary_name="/usr/bin/crun",
    root="/run/crun",
    systemd_cgroup=True,
    no_pivot_root=True,
    no_new_keyring=True,
    io_uid=1000,
    io_gid=2**32 - 1,
    criu_path="/usr/sbin/criu",
    criu_image_path="/images",
    criu_work_path="/work",
    shim_cgroup="/shims",
    task_api_address="unix:///run/é",
    task_api_version=3,
)


def test_every_option_stays_in_the_bundle(tmp_path: Path) -> None:
    ALL.save(str(tmp_path))

    assert RuntimeOptions.load(str(tmp_path)) == ALL


def test_the_file_is_what_containerds_own_shim_reads(tmp_path: Path) -> None:
    RuntimeOptions(binary_name="crun", systemd_cgroup=True).save(str(tmp_path))

    told = json.loads((tmp_path / "options.json").read_text())
    assert told == {"binary_name": "crun", "systemd_cgroup": True}


def test_nobody_else_reads_the_file_and_nothing_else_is_left(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ALL.save(str(tmp_path))
    finally:
        os.umask(before)

    assert os.listdir(tmp_path) == ["options.json"]
    assert stat.S_IMODE((tmp_path / "options.json").stat().st_mode) == 0o600


def test_later_options_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    ALL.save(str(tmp_path))
    RuntimeOptions(root="/other").save(str(tmp_path))

    assert RuntimeOptions.load(str(tmp_path)) == RuntimeOptions(root="/other")


def test_a_link_in_place_of_the_file_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("elsewhere")
    (tmp_path / "options.json").symlink_to("elsewhere")

    RuntimeOptions(root="/root").save(str(tmp_path))

    assert (tmp_path / "elsewhere").read_text() == "elsewhere"
    assert RuntimeOptions.load(str(tmp_path)) == RuntimeOptions(root="/root")


def test_a_bundle_without_options_has_the_default(tmp_path: Path) -> None:
    assert RuntimeOptions.load(str(tmp_path)) == RuntimeOptions()


def test_options_that_cannot_be_saved_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "options.json").mkdir()

    with pytest.raises(ShimError, match=r"cannot write .*options\.json"):
        ALL.save(str(tmp_path))

    assert os.listdir(tmp_path) == ["options.json"]


def test_a_bundle_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        ALL.save(str(tmp_path / "gone"))


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / "options.json").symlink_to("elsewhere")

    with pytest.raises(ShimError, match=r"options\.json"):
        RuntimeOptions.load(str(tmp_path))


def test_nobody_waits_for_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "options.json")

    with pytest.raises(InternalError, match="not a regular file"):
        RuntimeOptions.load(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "\x00",
        "[" * 100_000,
        '{"root": 1}',
        '{"systemd_cgroup": 1}',
        '{"io_uid": true}',
        '{"io_uid": -1}',
        '{"io_uid": 4294967296}',
        '{"root": "a\\u0000b"}',
        " " * (1 << 20) + "{}",
    ],
)
def test_what_was_not_written_by_a_shim_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "options.json").write_text(text)

    with pytest.raises(InternalError, match=r"options\.json does not hold"):
        RuntimeOptions.load(str(tmp_path))


def test_what_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "options.json").write_bytes(b'{"root": "\xff"}')

    with pytest.raises(InternalError):
        RuntimeOptions.load(str(tmp_path))


def test_an_option_of_a_later_version_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text('{"root": "/a", "later": [1]}')

    assert RuntimeOptions.load(str(tmp_path)) == RuntimeOptions(root="/a")


TOML = b"""
BinaryName = "/usr/bin/crun"
Root = "/run/crun"
SystemdCgroup = true
NoPivotRoot = true
NoNewKeyring = true
IoUid = 1000
IoGid = 4294967295
CriuPath = "/usr/sbin/criu"
CriuImagePath = "/images"
CriuWorkPath = "/work"
ShimCgroup = "/shims"
TaskApiAddress = "unix:///run/\xc3\xa9"
TaskApiVersion = 3
TypeUrl = "another's"
[another]
table = 1
"""


def test_every_option_has_its_name_in_toml() -> None:
    assert RuntimeOptions.from_toml(TOML) == ALL


def test_names_in_toml_are_of_any_case() -> None:
    assert RuntimeOptions.from_toml(b"systemdcgroup = true") == RuntimeOptions(systemd_cgroup=True)


def test_no_toml_is_the_default() -> None:
    assert RuntimeOptions.from_toml() == RuntimeOptions()


def test_a_file_goes_before_the_body(tmp_path: Path) -> None:
    (tmp_path / "crun.toml").write_bytes(TOML)

    assert RuntimeOptions.from_toml(b"Root = '/other'", path=str(tmp_path / "crun.toml")) == ALL


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="missing"):
        RuntimeOptions.from_toml(path=str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"=", "options: the runtime's options"),
        (b"\xff", "utf-8"),
        (b"SystemdCgroup = 'yes'", "systemd_cgroup must be a bool, not 'yes'"),
        (b"Root = 7", "root must be a str, not 7"),
        (b"IoUid = -1", "io_uid must be between 0 and 4294967295, not -1"),
    ],
)
def test_wrong_toml_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        RuntimeOptions.from_toml(body)


def test_options_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ALL.root = "/"  # type: ignore[misc]  # that is what is tried
