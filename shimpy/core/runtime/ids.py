"""Which ids of containers are taken in this process, by whichever shim: of two the first gets an id.

The runtime does not see to that. Two creates of one id at the same time both begin, and the one that fails
removes what the other has made.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from shimpy.core.runtime.runc import Runtime
from shimpy.errors import AlreadyExistsError

_lock: Final = threading.Lock()  # each shim may be in a thread of its own
_taken: Final[dict[str, list[ContainerId]]] = {}


class ContainerId:
    """An id that nobody else in this process can take until it is released.

    One id may be taken once for each folder in which a runtime keeps its state. Where a runtime's folder is
    not known it may be that of any other.

    Args:
        runtime: which is to have the container.
        container_id: the id.

    Raises:
        AlreadyExistsError: it is taken.
    """

    def __init__(self, runtime: Runtime, container_id: str) -> None:
        self._id = container_id
        directory = runtime.state_directory(container_id)
        self._directory = None if directory is None else os.path.realpath(directory)
        with _lock:
            others = _taken.setdefault(container_id, [])
            if any(self._may_be(other) for other in others):
                raise AlreadyExistsError(f"id: this process has a container {container_id} already")
            others.append(self)

    def release(self) -> None:
        """Lets others take it. Idempotent."""
        with _lock:
            others = _taken.get(self._id, [])
            if self in others:
                others.remove(self)
            if not others:
                _taken.pop(self._id, None)

    def _may_be(self, other: ContainerId) -> bool:
        return self._directory is None or other._directory in (None, self._directory)
