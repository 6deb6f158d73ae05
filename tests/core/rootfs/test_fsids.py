"""Files that belong to another user from the first moment on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shimpy.core.rootfs.fsids import file_owner


def capabilities() -> str:
    """Returns the effective set of this thread."""
    status = Path("/proc/thread-self/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("CapEff"))


def test_what_is_created_is_theirs_and_nothing_is_lost(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)  # which only the capabilities of root get through
    before = capabilities()
    with file_owner(4321, 1234):
        (tmp_path / "file").touch()
        assert capabilities() == before
    assert (tmp_path / "file").stat()[4:6] == (4321, 1234)
    (tmp_path / "mine").touch()
    assert (tmp_path / "mine").stat()[4:6] == (os.getuid(), os.getgid())
    assert capabilities() == before


def test_it_ends_with_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(LookupError), file_owner(4321, 1234):
        raise LookupError
    (tmp_path / "mine").touch()
    assert (tmp_path / "mine").stat().st_uid == os.getuid()
