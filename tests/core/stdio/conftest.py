"""The hub that all stdio is opened with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shimpy.core.stdio import StdioHub
from tests.support.leaks import descriptors, eventually, opened_since


@pytest.fixture
async def hub() -> AsyncIterator[StdioHub]:
    """A hub that must be empty, and leave no file descriptor, at the end."""
    before = descriptors()
    hub = StdioHub()
    yield hub
    assert hub.fifos == {}
    hub.close()
    # A thread that the end of the test lets go of a FIFO has it open for a moment.
    await eventually(lambda: not opened_since(before))
