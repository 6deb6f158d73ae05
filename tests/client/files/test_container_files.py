"""Files and folders into a container and out of it, whatever stands in the way."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import shimpy
from tests.support.sandboxes import sandbox, sh

pytestmark = pytest.mark.anyio


def archive(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Returns a tar archive."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return output.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    """Returns an entry of one."""
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


async def test_what_is_written_is_read(container: shimpy.Container) -> None:
    await container.write_file("/tmp/new/deep/file", "grüße", mode=0o640, owner=shimpy.User(7, 8))
    assert await sh(container, "stat -c '%a %u %g' /tmp/new/deep/file") == "640 7 8\n"
    assert await container.read_file("/tmp/new/deep/file") == "grüße".encode()


async def test_a_folder_goes_in_and_comes_out_as_it_was(container: shimpy.Container, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "program").write_bytes(os.urandom(300_000))
    (source / "sub" / "program").chmod(0o751)
    (source / "link").symlink_to("sub/program")
    os.link(source / "sub" / "program", source / "hard")
    os.utime(source / "sub", (1, 1))
    await container.put(source, "/tmp")
    await container.get("/tmp/source", tmp_path / "back")
    back = tmp_path / "back"
    assert (back / "sub" / "program").read_bytes() == (source / "sub" / "program").read_bytes()
    assert stat.S_IMODE((back / "sub" / "program").stat().st_mode) == 0o751
    assert os.readlink(back / "link") == "sub/program"
    assert (back / "hard").samefile(back / "sub" / "program")
    assert (back / "sub").stat().st_mtime == 1


@pytest.mark.parametrize(
    ("source", "target", "made"),
    [
        ("file", "/tmp", "/tmp/file"),
        ("file", "/tmp/other", "/tmp/other"),
        ("folder", "/tmp", "/tmp/folder/inner"),
        ("folder", "/tmp/other", "/tmp/other/inner"),
        ("folder/.", "/tmp", "/tmp/inner"),
        ("folder/", "/tmp/", "/tmp/folder/inner"),
    ],
)
async def test_names_are_as_with_docker_cp(
    container: shimpy.Container, tmp_path: Path, source: str, target: str, made: str
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder/inner"):
        (tmp_path / name).write_text(name)
    await container.put(f"{tmp_path}/{source}", target)
    assert await container.read_file(made) in (b"file", b"folder/inner")

    # The same the other way round.
    out = tmp_path / "out"
    out.mkdir()
    await container.run(["cp", "-r", "/tmp/.", "/tmp"])
    await container.get(made, out)
    assert (out / made.rpartition("/")[2]).is_file()


async def test_what_cannot_be_copied_is_said(container: shimpy.Container, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(shimpy.NotFoundError, match="there is no /nowhere"):
        await container.put("/nowhere", "/tmp")
    with pytest.raises(shimpy.NotFoundError, match="no directory /tmp/missing"):
        await container.put(file, "/tmp/missing/file")
    with pytest.raises(shimpy.AlreadyExistsError, match="is a file"):
        await container.put(tmp_path, "/bin/busybox")
    with pytest.raises(shimpy.NotFoundError, match="no /tmp/missing"):
        await container.get("/tmp/missing", tmp_path)
    with pytest.raises(shimpy.NotFoundError, match="Not a directory"):
        await container.get("/bin/busybox", file / "below")
    with pytest.raises(shimpy.NotFoundError, match="Not a directory"):
        await container.put(file, "/bin/busybox/below")
    with pytest.raises(shimpy.InvalidArgumentError, match="not absolute"):
        await container.read_file("relative")
    with pytest.raises(shimpy.InvalidArgumentError, match="not a file"):
        await container.read_file("/tmp")
    with pytest.raises(shimpy.PermissionDeniedError):
        await container.write_file("/bin/new", b"")
    with pytest.raises(TypeError, match="owner"):
        await container.put(file, "/tmp", owner=0)  # type: ignore[arg-type] # that is what is tried


async def test_no_link_leads_out_of_the_container(container: shimpy.Container, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    up = "/".join([".."] * 20)
    await sh(
        container, f"ln -s {secret} /tmp/absolute; ln -s {up}{secret} /tmp/up; ln -s {tmp_path} /tmp/dir"
    )
    for path in ("/tmp/absolute", "/tmp/up", "/tmp/dir/secret", f"/tmp/{up}{secret}"):
        with pytest.raises(shimpy.NotFoundError):
            await container.read_file(path)
    with pytest.raises(shimpy.NotFoundError):
        await container.put(secret, "/tmp/dir/")
    await container.put_archive("/tmp", archive((entry("absolute"), b"inside")))
    assert secret.read_text() == "of the host"
    assert await sh(container, "cat /tmp/absolute") == "inside"


async def test_links_inside_the_container_are_followed(container: shimpy.Container) -> None:
    await sh(container, "mkdir /tmp/real; ln -s /tmp/real /tmp/link")
    await container.write_file("/tmp/link/file", b"data")
    assert await sh(container, "cat /tmp/real/file") == "data"


async def test_magic_links_lead_nowhere(container: shimpy.Container) -> None:
    with pytest.raises(shimpy.ShimError):
        await container.read_file("/proc/self/root/etc/hostname")
    with pytest.raises(shimpy.ShimError):
        await container.read_file(f"/proc/{os.getpid()}/cwd/pyproject.toml")


async def test_fifos_and_devices_are_not_opened(container: shimpy.Container, tmp_path: Path) -> None:
    await sh(
        container, "mkdir /tmp/odd; mkfifo /tmp/odd/fifo; echo data >/tmp/odd/file; chmod 4755 /tmp/odd/file"
    )
    with pytest.raises(shimpy.InvalidArgumentError, match="not a file"):
        await container.read_file("/tmp/odd/fifo")
    with pytest.raises(shimpy.InvalidArgumentError, match="not a file"):
        await container.read_file("/dev/zero")
    await container.get("/tmp/odd", tmp_path)
    assert [path.name for path in (tmp_path / "odd").iterdir()] == ["file"]
    assert stat.S_IMODE((tmp_path / "odd" / "file").stat().st_mode) == 0o755


async def test_owners_are_numbered_as_in_the_container(
    bundle: Callable[..., str], new_id: Callable[[], str], rootfs: Path
) -> None:
    mapping = {"containerID": 0, "hostID": 100_000, "size": 65_536}

    def change(spec: dict[str, Any]) -> None:
        spec["root"]["path"] = str(rootfs)
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"] |= {"uidMappings": [mapping], "gidMappings": [mapping]}

    async with sandbox(bundle, new_id(), change=change) as container:
        await container.write_file("/dev/shm/file", b"", owner=shimpy.User(5, 6))
        assert await sh(container, "stat -c '%u %g' /dev/shm/file") == "5 6\n"
        async with container.get_archive("/dev/shm/file") as stream:
            data = b"".join([piece async for piece in stream])
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert [(member.name, member.uid, member.gid) for member in tar] == [("file", 5, 6)]
        with pytest.raises(shimpy.InvalidArgumentError, match="not mapped"):
            await container.write_file("/dev/shm/other", b"", owner=shimpy.User(4_000_000_000))
        assert await sh(container, "ls -A /dev/shm") == "file\n"


async def test_an_archive_that_comes_in_pieces_is_unpacked(container: shimpy.Container) -> None:
    data = archive(
        (entry("a/b", mode=0o600, uid=3, gid=4), bytes(200_000)), (entry("a/f", tarfile.FIFOTYPE), b"")
    )

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 50_000):
            yield data[start : start + 50_000]

    await container.put_archive("/tmp", pieces())
    assert await sh(container, "stat -c '%s %a %u' /tmp/a/b; stat -c %F /tmp/a/f") == "200000 600 3\nfifo\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not an archive", "cannot be read"),
        (archive((entry("../out"), b"")), "outside of the directory"),
        (archive((entry("device", tarfile.CHRTYPE, devmajor=1, devminor=5), b"")), "is a device"),
        (
            archive((entry("hard", tarfile.LNKTYPE, linkname="../../etc/passwd"), b"")),
            "outside of the directory",
        ),
    ],
)
async def test_an_archive_that_cannot_be_meant_is_refused(
    container: shimpy.Container, data: bytes, message: str
) -> None:
    with pytest.raises(shimpy.InvalidArgumentError, match=message):
        await container.put_archive("/tmp", data)


async def test_more_than_the_limit_does_not_come_out(container: shimpy.Container, tmp_path: Path) -> None:
    await sh(container, "truncate -s 1099511627776 /tmp/huge; head -c 2000 /dev/zero >/tmp/file")
    with pytest.raises(shimpy.ResourceExhaustedError):
        await container.get("/tmp/huge", tmp_path, limit=1 << 20)
    with pytest.raises(shimpy.ResourceExhaustedError):
        await container.read_file("/tmp/file", limit=1999)
    assert len(await container.read_file("/tmp/file", limit=2000)) == 2000


async def test_a_gibibyte_comes_out_unless_more_is_allowed(
    container: shimpy.Container, tmp_path: Path
) -> None:
    await sh(container, "truncate -s 1073741825 /tmp/large")
    with pytest.raises(shimpy.ResourceExhaustedError, match=r"large: .* 1073741824 bytes that limit= allows"):
        await container.get("/tmp/large", tmp_path)
    assert not (tmp_path / "large").exists()


async def test_empty_files_count_too(container: shimpy.Container, tmp_path: Path) -> None:
    await sh(container, "mkdir /tmp/many; for i in 1 2 3 4 5 6 7 8 9; do touch /tmp/many/$i; done")
    with pytest.raises(shimpy.ResourceExhaustedError):
        await container.get("/tmp/many", tmp_path, limit=10 * 512 - 1)
    await container.get("/tmp/many", tmp_path, limit=10 * 512)
    assert len(list((tmp_path / "many").iterdir())) == 9


async def test_a_hole_takes_no_room_on_the_host(container: shimpy.Container, tmp_path: Path) -> None:
    await sh(
        container, "cd /tmp; echo first >file; truncate -s 20M file; echo last >>file; truncate -s 30M file"
    )
    await container.get("/tmp/file", tmp_path)
    copy = tmp_path / "file"
    assert copy.stat().st_blocks * 512 < 1 << 20
    data = copy.read_bytes()
    assert (len(data), data.strip(b"\0").count(b"\0")) == (30 << 20, (20 << 20) - 6)
    assert (data[:6], data[20 << 20 :].rstrip(b"\0")) == (b"first\n", b"last\n")


async def test_a_full_filesystem_is_said_and_nothing_half_is_left(container: shimpy.Container) -> None:
    await sh(container, "mkdir /tmp/small")
    with pytest.raises(shimpy.ResourceExhaustedError, match="No space"):
        await container.write_file("/dev/shm/file", bytes(70 << 20))
    assert await sh(container, "ls -A /dev/shm") == ""


async def test_a_copy_that_is_cancelled_ends_at_once(container: shimpy.Container, tmp_path: Path) -> None:
    await sh(container, "truncate -s 4294967296 /tmp/huge")
    out = tmp_path / "out"
    out.mkdir()
    with anyio.move_on_after(0.3) as scope:
        await container.get("/tmp/huge", out, limit=None)
    assert scope.cancelled_caught
    assert list(out.iterdir()) == []


async def test_an_archive_need_not_be_read_to_its_end(container: shimpy.Container) -> None:
    await sh(container, "truncate -s 1099511627776 /tmp/huge")
    async with container.get_archive("/tmp/huge") as stream:
        assert len(await stream.receive(1000)) == 1000


async def test_a_stopped_container_has_no_root(container: shimpy.Container) -> None:
    await container.stop(timeout=0)
    with pytest.raises(shimpy.FailedPreconditionError, match="has ended"):
        await container.read_file("/bin/busybox")


async def test_a_mounted_file_is_written_through(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("old and long")

    def change(spec: dict[str, object]) -> None:
        mounts = spec["mounts"]
        assert isinstance(mounts, list)
        mounts.append(
            {"destination": "/dev/hosts", "type": "bind", "source": str(hosts), "options": ["bind"]}
        )

    async with sandbox(bundle, new_id(), change=change) as container:
        await container.write_file("/dev/hosts", b"new")
        assert await sh(container, "cat /dev/hosts; ls -A /dev | grep shimpy || true") == "new"
    assert hosts.read_text() == "new"
