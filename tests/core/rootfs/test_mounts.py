"""What is mounted, and that it is all or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.rootfs import syscalls
from shimpy.core.rootfs.loop import loop_device
from shimpy.core.rootfs.mounts import Mount, Rootfs, mount_all
from shimpy.core.rootfs.unmount import mounted_at, unmount_all
from shimpy.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ShimError
from tests.support.namespaces import private_mounts


def flags(path: str) -> set[str]:
    """The flags that the topmost mount at a path has, as mountinfo shows them."""
    lines = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    return set([line.split()[5] for line in lines if line.split()[4] == path][-1].split(","))


def propagation(path: str) -> list[str]:
    lines = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    fields = [line.split() for line in lines if line.split()[4] == path][-1]
    return [field.partition(":")[0] for field in fields[6 : fields.index("-")]]


def is_read_only(path: str) -> bool:
    try:
        Path(path, "new").write_text("")
    except OSError as error:
        assert error.errno == errno.EROFS
        return True
    return False


@private_mounts
def test_a_filesystem_with_options_of_its_own(rootfs: str) -> None:
    mount_all(rootfs, [Mount("tmpfs", "tmpfs", "", ("nosuid", "mode=711", "size=1m"))])

    assert os.stat(rootfs).st_mode & 0o777 == 0o711
    assert "nosuid" in flags(rootfs)


@private_mounts
def test_no_mounts_are_as_good_as_some(rootfs: str) -> None:
    mount_all(rootfs, [])

    assert mounted_at(rootfs) == []


@private_mounts
def test_a_bind_mount_is_read_only_if_asked(rootfs: str, bind: Callable[..., Mount]) -> None:
    mount_all(rootfs, [bind("ro")])

    assert Path(rootfs, "file").read_text() == "content"
    assert is_read_only(rootfs)


@private_mounts
def test_a_bind_mount_has_every_flag_that_was_asked_for(rootfs: str, bind: Callable[..., Mount]) -> None:
    mount_all(rootfs, [bind("nosuid", "nodev", "noexec")])

    assert flags(rootfs) >= {"nosuid", "nodev", "noexec", "rw"}


@private_mounts
def test_a_bind_mount_keeps_the_flags_of_its_source(tmp_path: Path, rootfs: str) -> None:
    source = tmp_path / "limited"
    source.mkdir()
    mount_all(str(source), [Mount("tmpfs", "tmpfs", "", ("nosuid", "nodev", "noatime", "nosymfollow"))])

    mount_all(rootfs, [Mount("bind", str(source), "", ("bind", "ro"))])

    assert flags(rootfs) >= {"ro", "nosuid", "nodev", "noatime", "nosymfollow"}


@private_mounts
def test_a_flag_of_the_source_is_cleared_if_asked(tmp_path: Path, rootfs: str) -> None:
    source = tmp_path / "limited"
    source.mkdir()
    mount_all(str(source), [Mount("tmpfs", "tmpfs", "", ("nosuid", "nodev"))])

    mount_all(rootfs, [Mount("bind", str(source), "", ("bind", "suid"))])

    assert flags(rootfs) & {"nosuid", "nodev"} == {"nodev"}


@private_mounts
def test_a_recursive_bind_shows_what_is_mounted_below(tmp_path: Path, rootfs: str) -> None:
    source = tmp_path / "tree"
    (source / "inner").mkdir(parents=True)
    mount_all(str(source / "inner"), [Mount("tmpfs", "tmpfs")])
    (source / "inner" / "deep").write_text("deep")

    mount_all(rootfs, [Mount("bind", str(source), "", ("rbind",))])

    assert Path(rootfs, "inner", "deep").read_text() == "deep"


@private_mounts
def test_a_file_can_be_mounted_on_a_file(rootfs: str, tmp_path: Path) -> None:
    (tmp_path / "from").write_text("from")
    Path(rootfs, "to").touch()

    mount_all(rootfs, [Mount("bind", str(tmp_path / "from"), "to", ("bind", "ro"))])

    assert Path(rootfs, "to").read_text() == "from"


@private_mounts
def test_a_remount_changes_what_is_there(rootfs: str) -> None:
    mount_all(rootfs, [Mount("tmpfs", "tmpfs"), Mount("tmpfs", "tmpfs", "", ("remount", "ro"))])

    assert len(mounted_at(rootfs)) == 1
    assert is_read_only(rootfs)


@pytest.mark.parametrize(
    ("option", "shown"), [("shared", ["shared"]), ("private", []), ("unbindable", ["unbindable"])]
)
@private_mounts
def test_propagation(rootfs: str, bind: Callable[..., Mount], option: str, shown: list[str]) -> None:
    mount_all(rootfs, [bind(option)])

    assert propagation(rootfs) == shown


@private_mounts
def test_a_mount_with_propagation_is_read_only_all_the_same(rootfs: str, bind: Callable[..., Mount]) -> None:
    mount_all(rootfs, [bind("ro", "rshared")])

    assert is_read_only(rootfs)


@private_mounts
def test_a_target_below_what_was_mounted_before(rootfs: str, bind: Callable[..., Mount]) -> None:
    mount_all(rootfs, [bind(), bind("ro", target="inner")])

    assert mounted_at(rootfs) == [rootfs, f"{rootfs}/inner"]


@pytest.mark.parametrize("target", ["way/out", "/way/out", "../../outside/out", "link", "inside/../link"])
@private_mounts
def test_no_target_leads_out_of_the_root_filesystem(
    rootfs: str, tmp_path: Path, bind: Callable[..., Mount], target: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "out").mkdir(parents=True)
    Path(rootfs, "inside").mkdir()
    Path(rootfs, "way").symlink_to("../outside")
    Path(rootfs, "link").symlink_to(outside / "out")

    with pytest.raises(NotFoundError, match="No such file"):
        mount_all(rootfs, [bind(target=target)])

    assert mounted_at(str(tmp_path)) == []


@private_mounts
def test_a_link_stays_in_the_root_filesystem(rootfs: str, bind: Callable[..., Mount]) -> None:
    Path(rootfs, "real").mkdir()
    Path(rootfs, "link").symlink_to("/real")

    mount_all(rootfs, [bind(target="link")])

    assert mounted_at(rootfs) == [f"{rootfs}/real"]


@private_mounts
def test_no_link_of_procfs_leads_out(rootfs: str, bind: Callable[..., Mount]) -> None:
    mounts = [Mount("proc", "proc"), bind(target="self/root/tmp")]

    with pytest.raises(ShimError):
        mount_all(rootfs, mounts)


FAILING = [
    pytest.param(Mount("tmpfs", "tmpfs", "missing"), NotFoundError, "missing", id="no target"),
    pytest.param(Mount("bind", "/no/such/source", "", ("bind",)), NotFoundError, "/no/such", id="no source"),
    pytest.param(Mount("nosuchfs", "x"), InvalidArgumentError, "nosuchfs", id="no filesystem"),
    pytest.param(Mount("tmpfs", "x", "", ("nonsense",)), InvalidArgumentError, "tmpfs", id="option"),
    pytest.param(Mount("tmpfs", "x", "", ("x" * 5000,)), InvalidArgumentError, "5000 bytes", id="too long"),
    pytest.param(Mount("ext4", "/dev/null"), InvalidArgumentError, "/dev/null", id="no device"),
    pytest.param(Mount("ext4", "/dev/null", "", ("loop",)), InvalidArgumentError, "loop device", id="loop"),
    pytest.param(Mount("ext4", "/no/such", "", ("loop",)), NotFoundError, "/no/such", id="no image"),
    pytest.param(
        Mount("bind", "/usr", "", ("bind", "uidmap=a", "gidmap=0:0:1")),
        InvalidArgumentError,
        "uidmap=a",
        id="map",
    ),
    pytest.param(
        Mount("overlay", "x", "", ("lowerdir=" + ":".join(f"/{n:0200}" for n in range(40)),)),
        InvalidArgumentError,
        "bytes",
        id="many layers",
    ),
]


@pytest.mark.parametrize(("failing", "error", "words"), FAILING)
@private_mounts
def test_of_mounts_of_which_one_fails_none_is_left(
    rootfs: str, bind: Callable[..., Mount], failing: Mount, error: type[ShimError], words: str
) -> None:
    before = os.listdir("/proc/self/fd")

    with pytest.raises(error, match=words):
        mount_all(rootfs, [bind("ro"), Mount("tmpfs", "tmpfs", "inner"), failing])

    assert mounted_at(rootfs) == []
    assert os.listdir("/proc/self/fd") == before


@private_mounts
def test_a_mount_that_fails_half_way_is_undone(
    rootfs: str, bind: Callable[..., Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str, type: str, flags: int, data: str = "") -> None:
        if flags & syscalls.MS_REMOUNT:
            raise OSError(errno.EPERM, "refused")
        real(source, target, type, flags, data)

    real = syscalls.mount
    monkeypatch.setattr(syscalls, "mount", refuse)

    with pytest.raises(ShimError, match="refused"):
        mount_all(rootfs, [bind("ro")])

    assert mounted_at(rootfs) == []


@private_mounts
def test_what_was_mounted_before_is_not_undone(rootfs: str, bind: Callable[..., Mount]) -> None:
    mount_all(rootfs, [bind()])

    with pytest.raises(ShimError):
        mount_all(rootfs, [Mount("tmpfs", "tmpfs"), Mount("nosuchfs", "x")])

    assert mounted_at(rootfs) == [rootfs]
    assert Path(rootfs, "file").exists()


@private_mounts
def test_a_mount_in_use_is_undone(rootfs: str, bind: Callable[..., Mount]) -> None:
    mounting = Rootfs(rootfs)
    mounting.mount(bind())
    with open(f"{rootfs}/file") as file:
        mounting.undo()

        assert mounted_at(rootfs) == []
        assert file.read() == "content"


@private_mounts
def test_a_source_in_use_is_said_to_be(rootfs: str, image: str, tmp_path: Path) -> None:
    with loop_device(image, read_only=False, direct_io=False) as device:
        mount_all(rootfs, [Mount("ext4", device, "", ("ro",))])
        with pytest.raises(FailedPreconditionError, match="busy"):
            mount_all(str(tmp_path), [Mount("ext4", device)])
        unmount_all(rootfs)
