"""A command that writes what a test has to know of it."""

from __future__ import annotations

import os
from typing import TextIO

from shimpy.core.reaper import Reaper
from shimpy.core.reaper.command import Command


def spawn_telling(reaper: Reaper, *argv: str) -> tuple[Command, TextIO]:
    """Has a reaper start a program, in a process group of its own, and returns that and what it prints."""
    read_end, write_end = os.pipe()
    try:
        command = reaper.spawn(*argv, stdout=write_end, process_group=0)
    finally:
        os.close(write_end)
    return command, open(read_end)
