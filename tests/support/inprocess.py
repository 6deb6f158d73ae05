"""Shims in the test's own process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from grpclib.testing import ChannelFor

from shimpy.api import ShimStub
from shimpy.services.shim_v1 import Shim
from tests.support.machine import RUNTIME


@contextlib.asynccontextmanager
async def serve(**options: Any) -> AsyncIterator[ShimStub]:
    """Yields a client of a new Shim.

    Args:
        options: arguments of Shim; its runtime is that of the run if they name none.
    """
    async with Shim(**{"runtime": RUNTIME, **options}) as service, ChannelFor([service]) as channel:
        yield ShimStub(channel)
