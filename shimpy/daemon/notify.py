"""The service manager, or keeper, that has started this process: what it is told, and what it holds for us.

See sd_notify(3) and sd_listen_fds(3).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import sys
from typing import Final

from shimpy.core.fd_store import FdStore

_log = logging.getLogger(__name__)

# The first file descriptor that is passed on (sd_listen_fds(3)).
_FIRST: Final = 3

# Milliseconds to wait for a manager that has ten messages to read before ours (unix(7), max_dgram_qlen).
_SEND_TIMEOUT: Final = 50

# File descriptors that are stored at most: their names are one variable of the environment of the next shim,
# which may have 128 KiB (execve(2)).
_MOST: Final = 3000

# The end of the address of systemd's own socket, the only manager but our keeper that has a store.
_SYSTEMD: Final = "/systemd/notify"


def is_systemd() -> bool:
    """Returns whether systemd has started this process."""
    return os.environ.get("NOTIFY_SOCKET", "").endswith(_SYSTEMD)


def notify(state: str) -> None:
    """Tells the service manager how far this process is, if there is one that wants to know.

    Args:
        state: such as READY=1.
    """
    # The shim serves even if its manager does not listen.
    with contextlib.suppress(OSError), _connected() as manager:
        manager.send(state.encode())


def take_fds() -> dict[str, int]:
    """Returns the file descriptors that were stored by the shim before, by name, and takes them out.

    They come without close-on-exec, and are closed in children from now on.
    """
    environ = os.environ
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    count = environ.get("LISTEN_FDS", "")
    found: dict[str, int] = {}
    for number in range(int(count) if count.isdecimal() else 0):
        fd = _FIRST + number
        try:
            os.set_inheritable(fd, False)
        except OSError:
            continue
        name = names[number] if number < len(names) else ""
        if name in found:
            os.close(fd)
        else:
            found[name] = fd
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    return found


class ManagerStore(FdStore):
    """The store of the service manager.

    A manager that is stuck, full or dead costs what could have been stored, with one warning, and no call.

    Args:
        names: of what is stored already.
    """

    def __init__(self, names: set[str]) -> None:
        self._names = set(names)
        self._manager: socket.socket | None = None
        self._is_stuck = self._warned = False
        try:
            self._manager = _connected()
        except OSError as error:
            self._failed(error)

    def put(self, name: str, fd: int) -> None:
        """See `FdStore.put`."""
        if name in self._names or self._manager is None:
            return
        if len(self._names) >= _MOST:
            self._warn(f"{_MOST} file descriptors are stored already")
            return
        if self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", fd):
            self._names.add(name)

    def remove(self, name: str) -> None:
        """See `FdStore.remove`."""
        if name in self._names and self._send(f"FDSTOREREMOVE=1\nFDNAME={name}"):
            self._names.discard(name)

    def close(self) -> None:
        """Leaves what is stored as it is, from now on. Idempotent."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _send(self, message: str, fd: int = -1) -> bool:
        if self._manager is None:
            return False
        if not self._has_room(self._manager):
            self._is_stuck = True
            self._warn("it does not read what it is told")
            return False
        try:
            fds = [] if fd < 0 else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
            self._manager.sendmsg([message.encode()], fds, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError as error:
            self._failed(error)
            return False
        self._is_stuck = False
        return True

    def _has_room(self, manager: socket.socket) -> bool:
        poll = select.poll()
        poll.register(manager, select.POLLOUT)
        # One that was stuck is not waited for again until it is not.
        return bool(poll.poll(0) or (not self._is_stuck and poll.poll(_SEND_TIMEOUT)))

    def _failed(self, error: OSError) -> None:
        self._warn(error.strerror or str(error))
        self.close()

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "the service manager does not hold what this shim would lose (%s): if it is killed, "
                "terminals, stdin and the exit status of who ends before it is started again are gone",
                why,
            )


def _connected() -> socket.socket:
    """Returns a connection to the service manager.

    Raises:
        OSError: there is none, or it does not listen.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        raise FileNotFoundError(errno.ENOENT, "there is no service manager")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        manager.close()
        raise
    return manager
