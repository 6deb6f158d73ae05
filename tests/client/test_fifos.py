"""The FIFOs of a command, seen from the client alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

import pytest

from shimpy.client.pipes import OutputReader
from tests.support.fifos import Fifo

pytestmark = pytest.mark.anyio


async def test_the_rest_of_an_output_that_never_ends_is_read_within_bounds(
    fifo: Callable[[str], Fifo],
) -> None:
    out = fifo("out")
    taken = 0

    def take(data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        assert taken <= 10 * size, "it reads for ever"
        # Something that outlives the command fills the FIFO again each time.
        os.write(writer, bytes(len(data)))

    reader = OutputReader(str(out), take)
    writer = os.open(out, os.O_WRONLY | os.O_NONBLOCK)
    size = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.write(writer, bytes(size))
    reader.finish()
    assert size <= taken < 2 * size
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
