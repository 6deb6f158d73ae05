"""The recorder of terminals: what it records looks like the terminal did."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest

import shimpy
from shimpy.hooks.recorder import SessionRecorder
from tests.support.leaks import eventually
from tests.support.machine import RUNTIME
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio

# Draws a bar across the terminal, and again whenever its size changes; ends on a line of input.
_DRAW = r"""
draw() {
    set -- $(stty size)
    printf '\033[2J\033[%d;%dH\033[1;31m#\033[0m\033[1;1H' $1 $2
    printf 'gr\303\274\303\237e size %s' "$1 $2"
}
trap draw WINCH
draw
while ! read -t 1 line && [ -z "$line" ]; do :; done
printf '\r\nread %s\r\n' "$line"
"""


def play(path: Path) -> pyte.Screen:
    """Plays a recording on a terminal of pyte's."""
    header, *events = map(json.loads, path.read_text().splitlines())
    screen = pyte.Screen(header["width"], header["height"])
    stream = pyte.Stream(screen)
    times = [at for at, _, _ in events]
    assert times == sorted(times)
    for _, kind, data in events:
        if kind == "r":
            columns, _, rows = data.partition("x")
            screen.resize(int(rows), int(columns))
        else:
            stream.feed(data)
    return screen


async def test_a_recording_plays_to_the_same_screen(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    sizes = itertools.cycle([(100, 30), (60, 20)])
    seconds = rounds(0, 60)
    turns = itertools.count()
    seen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(seen)

    def shows(text: str) -> bool:
        return any(text in line for line in seen.display)

    async with (
        shimpy.in_process(runtime=RUNTIME, hooks=SessionRecorder(tmp_path / "casts")) as shim,
        shim.container(new_id(), bundle("sh", "-c", "sleep 1000000 & wait")) as container,
        container.pty(["sh", "-c", _DRAW], width=80, height=24) as pty,
    ):

        async def show() -> None:
            async for data in pty:
                stream.feed(data)

        showing = asyncio.ensure_future(show())
        await eventually(lambda: shows("grüße size 24 80"))
        began = time.monotonic()
        while next(turns) < 2 or time.monotonic() < began + seconds:
            columns, rows = next(sizes)
            seen.resize(rows, columns)
            await pty.resize(columns, rows)
            await eventually(lambda: shows(f"size {rows} {columns}"))  # noqa: B023 - it is done with before
        await pty.write(b"done\n")
        await showing
    (path,) = (tmp_path / "casts").iterdir()
    header, *_, (length, _, _) = map(json.loads, path.read_text().splitlines())

    assert length >= seconds
    assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
    assert path.stat().st_mode & 0o777 == 0o600
    assert shows("read done")
    assert play(path).display == seen.display


async def test_what_has_no_terminal_is_not_recorded(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    async with shimpy.in_process(runtime=RUNTIME, hooks=SessionRecorder(tmp_path / "casts")) as shim:
        await shim.run(new_id(), bundle("echo", "hello"))

    assert not (tmp_path / "casts").exists()
