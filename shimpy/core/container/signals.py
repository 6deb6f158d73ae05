"""Signals to the processes of a container."""

from __future__ import annotations

import signal

from shimpy.core.container.context import Created
from shimpy.core.container.process import Process
from shimpy.errors import FailedPreconditionError, NotFoundError


def send_signal(process: Process, signum: int, created: Created, *, everything: bool) -> None:
    """Sends a signal; see `ManagedContainer.kill`.

    Args:
        process: the process that gets it.
        signum: the number of the signal.
        created: the container.
        everything: every process in the container gets it.
    """
    if process.exit_status is not None:
        if process.child is None:
            raise NotFoundError(f"exec_id: the start of exec {process.exec_id} has failed")
        raise NotFoundError(f"process {process.pid} has exited already")
    if process.child is None:
        what = f"exec_id: exec {process.exec_id}" if process.exec_id else "kill: the container"
        raise FailedPreconditionError(f"{what} is not started")
    process.child.kill(signum)
    if everything:
        created.cgroup.signal(signum)
    if signum == signal.SIGKILL and process is created.init and created.cgroup.frozen():
        # A process that version 1 has frozen does not see it.
        created.cgroup.thaw()
