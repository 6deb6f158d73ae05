"""What several tests of the core stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shimpy.core.reaper import Reaper
from shimpy.core.stdio.uri import LogProgram


@pytest.fixture
async def reaper() -> AsyncIterator[Reaper]:
    reaper = Reaper()
    reaper.open()
    yield reaper
    reaper.close()


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., LogProgram]:
    """Writes a program in sh, which begins in the test's directory."""

    def write(script: str, *arguments: str, must_say_ready: bool = False) -> LogProgram:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        path.chmod(0o755)
        return LogProgram(str(path), arguments, must_say_ready)

    return write
