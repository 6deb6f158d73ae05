"""What is wrong about a call is said by the names that the caller used, and leaves nothing open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import shimpy
from tests.support.sandboxes import sh

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/", "/tmp/", "/tmp/.", "/tmp/.."])
async def test_a_directory_is_not_written(container: shimpy.Container, path: str) -> None:
    with pytest.raises(shimpy.InvalidArgumentError, match=f"'{path}' names a directory"):
        await container.write_file(path, "data")


async def test_a_path_may_lead_up(container: shimpy.Container) -> None:
    await container.write_file("/dev/../tmp/new/file", "data")
    assert await sh(container, "cat /tmp/new/file") == "data"
    with pytest.raises(shimpy.NotFoundError, match=r"write_file: /tmp/other/\.\./file: No such file"):
        await container.write_file("/tmp/other/../file", "data")


@pytest.mark.parametrize("path", ["/etc/new", "/new/file", "/tmp/../etc/new"])
async def test_a_file_that_cannot_be_written_has_the_caller_s_name(
    container: shimpy.Container, path: str
) -> None:
    with pytest.raises(shimpy.PermissionDeniedError) as failed:
        await container.write_file(path, "data")
    assert str(failed.value) == f"write_file: {path}: Read-only file system"


async def test_a_file_of_an_archive_has_its_name_there(container: shimpy.Container, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(shimpy.PermissionDeniedError) as failed:
        await container.put(f"{tmp_path}/folder/.", "/etc")
    assert str(failed.value) == "put: /etc: file: Read-only file system"


async def test_an_archive_that_nobody_reads_leaves_nothing_open(container: shimpy.Container) -> None:
    async with container.get_archive("/bin/busybox"):
        pass


async def pieces() -> AsyncIterator[Any]:
    """An archive of the wrong type."""
    yield "text"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda c: c.put_archive("/tmp", "text"),
            TypeError,
            "archive must be bytes or an async iter.*, not str",
        ),
        (lambda c: c.put_archive("/tmp", pieces()), TypeError, "archive: a piece must be bytes, not str"),
        (lambda c: c.get("/tmp", "out", limit=-1), ValueError, "^limit must be >= 0, not -1"),
        (lambda c: c.read_file("/tmp/file", limit="5"), TypeError, "^limit must be an int, not '5'"),
        (lambda c: c.write_file("/tmp/file", "", mode="644"), TypeError, "mode must be an int.*, not '644'"),
        (lambda c: c.write_file("/tmp/file", "", mode=0o10644), ValueError, "mode must be .*, not 0o10644"),
        (lambda c: c.write_file("/tmp/file", 5), TypeError, "data must be bytes or a str, not 5"),
    ],
)
async def test_a_wrong_argument_is_named(
    container: shimpy.Container, call: Callable[[shimpy.Container], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await call(container)
