"""The container of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

import shimpy
from tests.support import leaks
from tests.support.sandboxes import sandbox


@pytest.fixture
async def container(bundle: Callable[..., str], new_id: Callable[[], str]) -> AsyncIterator[shimpy.Container]:
    """A container that stays; a test that leaves a file open fails."""
    async with sandbox(bundle, new_id()) as container:
        await container.run(["true"])
        before = leaks.descriptors()
        yield container
        await leaks.eventually(lambda: not leaks.opened_since(before))
