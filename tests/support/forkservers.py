"""Fork servers: which there are, and an end to them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from shimpy.daemon.helper import packets


def fork_servers(directory: Path) -> dict[str, int]:
    """Returns the processes that listen in a directory, by the names of their sockets."""
    found = {}
    for path in sorted(directory.glob("*")):
        if path.is_socket():
            try:
                connection = packets.connect(str(path))
            except OSError:  # one that has just begun, or just ended
                continue
            found[path.name] = packets.peer(connection).pid
            connection.close()
    return found


def end_fork_servers(directory: Path) -> None:
    """Ends them, and returns when they have: nobody else waits for them, so that is when their socket has."""
    for pid in fork_servers(directory).values():
        os.kill(pid, signal.SIGTERM)
    while fork_servers(directory):
        pass
