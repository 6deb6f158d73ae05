"""Fixtures that every test file may ask for; the work is done in tests/support."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """asyncio only: the reaper stands on the child watching of its event loop."""
    return "asyncio"
