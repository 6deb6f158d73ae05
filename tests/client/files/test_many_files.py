"""A folder of many files, each of which is its own on the other side."""

from __future__ import annotations

from pathlib import Path

import pytest

import shimpy
from tests.support.sandboxes import sh

pytestmark = pytest.mark.anyio

# What a file has: nothing, a line, and more than is copied at a time.
_CONTENTS = [b"", b"line\n", bytes(range(256)) * 300]


async def test_hundreds_of_files_go_in_and_come_out(container: shimpy.Container, tmp_path: Path) -> None:
    files = {f"{number % 7}/{number}": _CONTENTS[number % 3] for number in range(300)}
    source, out = tmp_path / "source", tmp_path / "out"
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    await container.put(source, "/tmp")
    assert await sh(container, "find /tmp/source -type f | wc -l") == "300\n"
    await container.get("/tmp/source", out)
    copied = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert copied == files
