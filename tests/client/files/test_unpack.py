"""What appears on the host while an archive is unpacked there."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from threading import Event

import pytest

from shimpy.client.files.tree import FileTree
from shimpy.client.files.unpack import Unpacker

_PROGRAM = """
import os, sys
from threading import Event
from shimpy.client.files.tree import FileTree
from shimpy.client.files.unpack import Unpacker
tree = FileTree(os.open(sys.argv[1], os.O_PATH | os.O_DIRECTORY))
Unpacker(tree, ".", None, Event()).unpack(sys.stdin.buffer)
"""


def archive(name: str, data: bytes) -> bytes:
    """Returns a tar archive of one file."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o640
        tar.addfile(entry, io.BytesIO(data))
    return output.getvalue()


def unpack(target: Path, data: bytes) -> None:
    """Unpacks an archive in a directory."""
    tree = FileTree(os.open(target, os.O_PATH | os.O_DIRECTORY))
    try:
        Unpacker(tree, ".", None, Event()).unpack(io.BytesIO(data))
    finally:
        tree.close()


@pytest.mark.parametrize("there", [(), ("file",)])
def test_a_killed_program_leaves_no_half_file(tmp_path: Path, there: tuple[str, ...]) -> None:
    for name in there:
        (tmp_path / name).write_text("old")
    data = archive("file", os.urandom(4 << 20))
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, tmp_path], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(data[: 3 << 20])  # more than pipes and buffers hold: a part is written by now
        process.kill()
        process.wait()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(there, "old")


def no_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets files without a name be unknown, as on vfat or an overlay of Linux 6.0."""
    system = os.open

    def refusing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return system(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_file_takes_the_place_of_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool
) -> None:
    if not unnamed:
        no_unnamed_files(monkeypatch)
    for content in (b"first", b"second"):
        unpack(tmp_path, archive("file", content))
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", content)]
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o640


@pytest.mark.parametrize("unnamed", [True, False])
def test_of_an_archive_that_breaks_off_no_half_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool
) -> None:
    if not unnamed:
        no_unnamed_files(monkeypatch)
    with pytest.raises(Exception, match="unexpected end of data"):
        unpack(tmp_path, archive("file", os.urandom(1 << 20))[: 1 << 19])
    assert list(tmp_path.iterdir()) == []
