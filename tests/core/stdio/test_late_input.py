"""The stdin of an exec that is held for its client: when its FIFO is opened."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimpy.core.model import Policy, StdioPaths
from shimpy.core.stdio import StdioHub, open_stdio
from shimpy.errors import NotFoundError

pytestmark = pytest.mark.anyio

HELD = Policy(hold_stdin=True)


@pytest.fixture
def late_hub() -> Iterator[StdioHub]:
    hub = StdioHub()
    yield hub
    hub.close()


@pytest.fixture
def stdin(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "stdin")
    return str(tmp_path / "stdin")


def is_open(path: str) -> bool:
    """Whether somebody has a FIFO open for reading, so that its writers go on."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        assert error.errno == errno.ENXIO
        return False
    return True


async def test_a_writer_waits_for_the_start(late_hub: StdioHub, stdin: str) -> None:
    io = open_stdio(late_hub, StdioPaths(stdin=stdin), policy=HELD, is_exec=True)
    before = is_open(stdin)
    await io.prepare()
    after = is_open(stdin)
    io.close()

    assert (before, after) == (False, True)


@pytest.mark.parametrize(("policy", "is_exec"), [(HELD, False), (Policy(), True)])
async def test_of_any_other_process_it_does_not(
    late_hub: StdioHub, stdin: str, policy: Policy, is_exec: bool
) -> None:
    io = open_stdio(late_hub, StdioPaths(stdin=stdin), policy=policy, is_exec=is_exec)
    opened = is_open(stdin)
    io.close()

    assert opened


async def test_a_path_that_is_not_there_is_told_of_at_once(late_hub: StdioHub, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="stdin"):
        open_stdio(late_hub, StdioPaths(stdin=str(tmp_path / "no")), policy=HELD, is_exec=True)


async def test_one_that_goes_meanwhile_fails_the_start(late_hub: StdioHub, stdin: str) -> None:
    io = open_stdio(late_hub, StdioPaths(stdin=stdin), policy=HELD, is_exec=True)
    os.unlink(stdin)
    with pytest.raises(NotFoundError, match="stdin"):
        await io.prepare()
    io.close()


@pytest.mark.parametrize("prepared", [False, True])
async def test_a_close_before_the_start_holds(late_hub: StdioHub, stdin: str, prepared: bool) -> None:
    io = open_stdio(late_hub, StdioPaths(stdin=stdin), policy=HELD, is_exec=True)
    if prepared:
        await io.prepare()
    io.close_stdin()
    if not prepared:
        await io.prepare()
    writer = os.open(stdin, os.O_WRONLY | os.O_NONBLOCK)
    child = os.dup(io.fds[0])
    await io.attach()
    os.write(writer, b"x")
    os.close(writer)
    os.set_blocking(child, True)
    read = await asyncio.to_thread(lambda: b"".join(iter(lambda: os.read(child, 10), b"")))
    os.close(child)
    io.close()

    assert read == b"x"
