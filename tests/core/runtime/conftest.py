"""What runs commands here: a reaper, real containers, and a few lines of shell that stand for a runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runc
from tests.support.commanded import Command, Commanded

Script = Callable[[str], str]


@pytest.fixture
async def reaper(nothing_left: None) -> AsyncIterator[Reaper]:
    reaper = Reaper(sweep_orphans=True)
    reaper.open()
    yield reaper
    reaper.close()


@pytest.fixture
def runc(reaper: Reaper) -> Runc:
    return Runc("runc", None, reaper)


@pytest.fixture
def commanded(
    runc: Runc, reaper: Reaper, bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> Command:
    """Prepares a container whose output goes to the file `output` in the test's own directory."""

    def prepare(*args: str, runtime: Runc | None = None, **options: Any) -> Commanded:
        made = bundle(*args, **options)
        return Commanded(runtime or runc, reaper, new_id(), made, tmp_path / "output")

    return prepare


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes a runtime of a few lines of shell, and returns its path; `$log` is where it is to log."""
    path = tmp_path / "a runtime"
    find = 'while [ "$1" != --log ]; do shift; done; log=$2; shift 4'

    def make(lines: str) -> str:
        path.write_text(f"#!/bin/sh\n{find}\n{lines}\n")
        path.chmod(0o755)
        return str(path)

    return make
