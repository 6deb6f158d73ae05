"""Root filesystems for sandboxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import usr_root


@pytest.fixture(scope="package")
def machines_programs() -> Iterator[Path]:
    """A root filesystem with this machine's own programs in it; see support.usr_root."""
    with usr_root.usr_root() as root:
        yield root
