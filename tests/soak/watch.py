"""What the shim itself holds, which must be no more after any container."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import leaks, residue
from tests.support.servers import Server

# Bytes by which the shim may have grown at the end: its allocator does not give back all that it took.
MEMORY = 4 << 20

# After how many containers the memory is taken to be what it should stay.
WARM = 30


class Watch:
    """Looks at the shim between containers.

    Args:
        server: the shim.
        temporary: where it makes its temporary files.
        differ: called with words for what has grown.
    """

    def __init__(self, server: Server, temporary: Path, differ: Callable[[str], None]) -> None:
        self._server = server
        self._temporary = temporary
        self._differ = differ
        self._before: dict[str, Counter[Any]] = {}
        self._lives = 0
        self.memory: list[int] = []

    def look(self) -> None:
        """Compares with the first time; to be called while there is no container."""
        self._lives += 1
        self._before = self._before or self._held() | {
            what: Counter() for what in ("children", "temporary files", "cgroups")
        }
        end = time.monotonic() + 5
        # A client that has gone, and a claimed cgroup, take a moment. So does the runtime's version, which
        # the shim may just have been asking for when it was looked at first: no more is meant, not the same.
        while (more := self._more()) and time.monotonic() < end:
            time.sleep(0.01)
        for what, found in more.items():
            self._differ(f"{what} of the shim, more than there were: {found}")
        self.memory.append(leaks.memory(self._server.pid))

    def grown(self) -> int:
        """Returns by how many bytes the memory has grown since it was warm; 0 if it never was."""
        if len(self.memory) < 2 * WARM:
            return 0
        return self.memory[-1] - self.memory[WARM]

    def _more(self) -> dict[str, list[Any]]:
        now = self._held()
        return {what: [*more.elements()] for what in now if (more := now[what] - self._before[what])}

    def _held(self) -> dict[str, Counter[Any]]:
        pid = self._server.pid
        return {
            # Of the sockets and pipes only how many there are.
            "file descriptors": Counter(name.partition("[")[0] for name in leaks.descriptors(pid).values())
            - leaks.FIRST_INOTIFY,
            "threads": Counter(thread=leaks.threads(pid)),
            "children": Counter(list(leaks.children(pid))),
            "temporary files": Counter(os.listdir(self._temporary)),
            "cgroups": Counter(residue.cgroups()),
        }
