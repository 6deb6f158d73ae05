"""Keepers with small programs in the shim's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.fake_shims import Kept


@pytest.fixture
def keep() -> Iterator[Callable[..., Kept]]:
    """Starts keepers; see `Kept`."""
    started: list[Kept] = []

    def start(*arguments: Any, **options: Any) -> Kept:
        started.append(Kept(*arguments, **options))
        return started[-1]

    yield start
    for kept in started:
        kept.close()


@pytest.fixture
def kept(keep: Callable[..., Kept]) -> Kept:
    """One keeper."""
    return keep()
