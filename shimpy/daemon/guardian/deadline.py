"""Kills what has outlived its time, for a program that does not: one that is stopped, or too busy.

It deletes nothing: the program does so when it goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from typing import Any

from shimpy.core.cgroup.paths import cgroup_of, kill_cgroups
from shimpy.core.registry import ProcessIdentity


async def enforce(message: dict[str, Any]) -> None:
    """Kills what a deadline was set for.

    Args:
        message: as the program sent it: the `cgroups` of a container, or the `pid` of a process in it that
            began at `birth`, and the container's `init`, which is not to be taken along.
    """
    await kill_cgroups(message.get("cgroups", ()))
    if "pid" not in message:
        return
    pidfd = ProcessIdentity(message["pid"], message["birth"]).open()
    if pidfd is None:
        return
    try:
        # Its cgroup is looked up while the pid is certain to be its own.
        await kill_cgroups(cgroup_of(message["pid"], message["init"]))
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def main(arguments: list[str]) -> int:
    """Does it, in a process of its own, and returns the exit status.

    Args:
        arguments: one, what the program has sent.
    """
    asyncio.run(enforce(json.loads(arguments[0])))
    return 0
