"""Log programs, as the tests start them."""

from __future__ import annotations

from shimpy.core.reaper import Reaper
from shimpy.core.stdio.log_program import Logger
from shimpy.core.stdio.uri import LogProgram

# A program in sh that writes what it reads into two files.
COPY = "exec 5>&-; cat <&3 >out & cat <&4 >err; wait"


async def start(
    program: LogProgram, reaper: Reaper, owner: tuple[int, int] | None = None, ready_within: float = 30
) -> Logger:
    """Starts a log program of the container `web`."""
    return await Logger.start(
        program,
        reaper,
        container_id="web",
        namespace="k8s.io",
        owner=owner,
        ready_within=ready_within,
    )
