"""Fork servers: which there are, and an end to them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.leaks import alive


def fork_servers(directory: Path) -> dict[str, int]:
    """Returns the processes that listen in a directory, by the names of their FIFOs."""
    paths = [path for path in sorted(directory.glob("*.*.*")) if path.is_fifo()]
    return {path.name: pid for path in paths if alive(pid := int(path.suffix[1:]))}


def end_fork_servers(directory: Path) -> None:
    """Ends them, and returns when they have; nobody else waits for them."""
    servers = fork_servers(directory)
    for pid in servers.values():
        os.kill(pid, signal.SIGTERM)
    while any(alive(pid) for pid in servers.values()):
        pass
