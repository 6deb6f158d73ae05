"""Which ids of containers are taken: of two that want one at the same time the first gets it.

The runtime does not see to that. Two creates of one id both begin, and the one that fails removes what the
other has made. Within this process an id is taken for as long as its container is there; among processes
while the container is being created, since afterwards the runtime knows it.
"""

from __future__ import annotations

import binascii
import contextlib
import fcntl
import logging
import os
import struct
import threading
from typing import Final

from shimpy.core import tempdirs
from shimpy.core.runtime.runc import STATE_ROOTS
from shimpy.core.runtime.runtime import Runtime
from shimpy.errors import AlreadyExistsError

_log = logging.getLogger(__name__)

_lock: Final = threading.Lock()  # each shim may be in a thread of its own
_taken: Final[dict[str, list[ContainerId]]] = {}


class ContainerId:
    """An id that is reserved until it is released.

    One id may be taken once for each directory in which a runtime keeps its state. Where a runtime's
    directory is not known it may be that of any other.

    Args:
        runtime: which is to have the container.
        container_id: the id.

    Raises:
        AlreadyExistsError: it is taken.
    """

    def __init__(self, runtime: Runtime, container_id: str) -> None:
        self._id = container_id
        directory = runtime.state_directory(container_id)
        # The name itself is the runtime's to make.
        root = None if directory is None else os.path.realpath(os.path.dirname(directory))
        self._directory = None if root is None else os.path.join(root, container_id)
        self._create_lock = -1
        with _lock:
            others = _taken.setdefault(container_id, [])
            if any(self._may_be(other) for other in others):
                raise AlreadyExistsError(f"id: this process has a container {container_id} already")
            others.append(self)
        try:
            # A runtime of another name is most likely a wrapper of runc.
            self._lock_create(self._directory or os.path.join(STATE_ROOTS["runc"], container_id))
        except BlockingIOError:
            self.release()
            raise AlreadyExistsError(f"id: another process is creating a container {container_id}") from None
        except OSError as error:
            _log.info("cannot lock the id of container %s against other processes: %s", container_id, error)

    def created(self) -> None:
        """Lets other processes try: the runtime can now tell them that there is one. Idempotent."""
        if self._create_lock >= 0:
            os.close(self._create_lock)
            self._create_lock = -1

    def release(self) -> None:
        """Lets others take it. Idempotent."""
        self.created()
        with _lock:
            others = _taken.get(self._id, [])
            if self in others:
                others.remove(self)
            if not others:
                _taken.pop(self._id, None)

    def _may_be(self, other: ContainerId) -> bool:
        return self._directory is None or other._directory in (None, self._directory)

    def _lock_create(self, directory: str) -> None:
        """Locks the byte that stands for a directory in a file of all shims (fcntl_locking(2)); never waits.

        It is let go with its file descriptor, so also when this process dies. Two directories may share a
        byte; then the second of two creates at the same moment is refused: one in four thousand million.
        """
        fd = tempdirs.open_common("creating")
        byte = binascii.crc32(os.fsencode(directory))
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fd)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
            stack.pop_all()
        self._create_lock = fd
