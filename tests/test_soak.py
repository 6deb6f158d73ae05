"""A short round of the soak; `make soak` is the long one."""

from __future__ import annotations

import pytest

from .soak.soak import Soak
from .support.machine import lacking
from .support.rounds import rounds

pytestmark = pytest.mark.anyio


async def test_random_containers_are_as_the_model_has_them() -> None:
    if lacks := lacking():
        pytest.skip(f"containers need {lacks}")
    soak = Soak()
    await soak.run(seconds=rounds(5, 120))
    assert soak.differences == [], f"seed {soak.seed}"
