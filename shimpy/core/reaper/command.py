"""A program that a reaper has started, and waits for itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import Any

from shimpy.core.reaper import procfs
from shimpy.core.reaper.group import CommandGroup
from shimpy.core.reaper.tracking import Tracking


class Command:
    """A child that `Reaper.spawn` has started; `Reaper.wait` or `Reaper.kill` must be called for it.

    It is not asyncio's: that opens a second pidfd for each child, goes round the event loop five times more
    before it tells of an end, and blocks the loop on a child that somebody traces (ptrace(2)).

    Args:
        argv: program and arguments.
        options: as subprocess.Popen takes them.
        tracking: waits for it.

    Attributes:
        child: the hold on it.
        ended: set once it is known how it has ended.
        group: what it leaves behind if it fails.

    Raises:
        OSError: it could not be started, or no file descriptor is left to kill it by.
    """

    __slots__ = ("child", "ended", "group")

    def __init__(self, argv: tuple[str, ...], options: dict[str, Any], tracking: Tracking) -> None:
        self.ended = asyncio.Event()
        begun = procfs.now()
        process = subprocess.Popen(argv, **options)
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            # Without it there would be no end to one that hangs.
            process.kill()
            process.wait()
            raise
        process.returncode = 0  # it is waited for here, and the module is to leave it alone
        self.group = CommandGroup(process.pid, begun)
        self.child = tracking.adopt(process.pid, pidfd, self._has_ended, self._ends)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; then the exit code, negative the number of the signal that killed it."""
        return self.child.code

    def _ends(self, status: int) -> None:
        if status != 0:
            self.group.ends()

    def _has_ended(self, _status: int) -> None:
        self.ended.set()
