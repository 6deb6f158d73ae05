"""The end of log programs, real ones in sh."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.core.reaper import Reaper
from shimpy.core.stdio import log_program
from shimpy.core.stdio.uri import LogProgram
from tests.support.leaks import alive
from tests.support.log_programs import COPY, start

pytestmark = pytest.mark.anyio


async def test_one_that_waits_for_sigterm_gets_it(
    tmp_path: Path,
    reaper: Reaper,
    program: Callable[..., LogProgram],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_program, "_END_ALONE_WITHIN", 0.1)
    script = "trap 'touch terminated; exit' TERM; exec 5>&-; while :; do sleep 0.1; done"
    logger = await start(program(script), reaper)

    await logger.aclose()

    assert (tmp_path / "terminated").exists()


async def test_one_that_does_not_heed_sigterm_is_killed(
    tmp_path: Path,
    reaper: Reaper,
    program: Callable[..., LogProgram],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_program, "_END_ALONE_WITHIN", 0.1)
    monkeypatch.setattr(log_program, "_END_WITHIN", 0.3)
    logger = await start(program("trap '' TERM; echo $$ >pid; exec 5>&-; exec sleep 100"), reaper)

    await logger.aclose()

    assert not alive(int((tmp_path / "pid").read_text()))


async def test_to_close_it_twice_is_harmless(reaper: Reaper, program: Callable[..., LogProgram]) -> None:
    logger = await start(program(COPY), reaper)

    await logger.aclose()
    await logger.aclose()


async def test_what_still_holds_an_output_does_not_hold_up_the_end(
    reaper: Reaper, program: Callable[..., LogProgram]
) -> None:
    logger = await start(program("exec 5>&-; exec cat <&3"), reaper)
    held = os.dup(logger.stdout)
    began = time.monotonic()

    await logger.aclose()

    assert time.monotonic() - began < 12
    os.close(held)
