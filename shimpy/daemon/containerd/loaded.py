"""Whether the files that a process has been loaded from are still what they were."""

from __future__ import annotations

import os
import sys

_Identity = tuple[int, int, int, int]


class LoadedFiles:
    """What this process has imported until now.

    Of shimpy itself, which may be edited where it lies, each file is looked at; of the libraries, which are
    replaced as a whole, the directories that hold them; and the interpreter.
    """

    def __init__(self) -> None:
        own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = {os.path.realpath(sys.executable)}
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if path:
                paths.add(path if path.startswith(f"{own}/") else os.path.dirname(path))
        self._found = {path: _identity(path) for path in paths}

    def changed(self) -> bool:
        """Returns whether one of them has changed since."""
        return any(_identity(path) != found for path, found in self._found.items())


def _identity(path: str) -> _Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
