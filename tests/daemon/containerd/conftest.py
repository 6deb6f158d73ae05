"""Shims that are started by the command, and ended with the test."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.shimv2 import Shims


@pytest.fixture
async def shims() -> AsyncIterator[Shims]:
    # Not the test's own directory: the path of a socket in it may be too long.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        shims = Shims(Path(directory))
        yield shims
        await shims.aclose()
