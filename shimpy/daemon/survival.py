"""What outlives `python -m shimpy`: its socket, its journal, and file descriptors that others hold."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack

from shimpy.core.journal import Journal, JournalDirectory, JournalState, read_records, replay
from shimpy.core.runtime.environment import SHIM, mark
from shimpy.daemon.notify import ManagerStore, is_systemd
from shimpy.errors import AlreadyExistsError
from shimpy.services.shim_v1 import Shim
from shimpy.services.shim_v1.events import SEQUENCED
from shimpy.transport import unix

_log = logging.getLogger(__name__)

# The name in the store of the listening socket, before the device and inode number of its file.
_LISTEN = "listen-"


class Survival:
    """Takes over what the shim before this one has left, and leaves the same.

    Args:
        path: of the socket.
        fds: what was stored, by name; closed or taken.

    Attributes:
        place: the socket, once it is open.
        is_restart: another shim goes on when this one has ended.
    """

    place: unix.UnixSocket

    def __init__(self, path: str, fds: dict[str, int]) -> None:
        self.is_restart = False
        self._path = path
        self._fds = fds
        self._stored = set(fds)
        self._directory: JournalDirectory | None = None
        self._journal: Journal | None = None
        self._store: ManagerStore | None = None
        self._undo = ExitStack()

    def open(self) -> None:
        """Listens, and takes the journal over.

        Raises:
            ShimError: the socket could not be made, or the shim before was a newer one.
        """
        self.place = self._inherited() or unix.listen(self._path)
        self._undo.callback(self.place.socket.close)
        self._undo.callback(self.leave_place)
        opened = _open_journal(self.place.path)
        if opened is None:
            return
        self._directory, state = opened
        self._undo.callback(self._directory.unlock)
        self._journal = Journal(self._directory, self.place.path, sequenced=SEQUENCED, state=state)
        self._undo.callback(self._close_journal, self._journal)
        mark[SHIM] = self._journal.marker
        if self._directory.is_kept() or is_systemd():
            self._store = ManagerStore(self._stored)
            self._store.put(self._name, self.place.socket.fileno())

    async def take_up(self, shim: Shim) -> None:
        """Has a shim take up what was left, and write down what happens."""
        if self._journal is not None:
            shim.supervisor.store = self._store
            await shim.keep_journal(self._journal, self._fds)

    def on_restart(self, stop: Callable[[], None]) -> None:
        """Has SIGHUP end the shim for another to go on, if somebody starts one."""
        if self._store is None:
            return

        def restart() -> None:
            self.is_restart = True
            stop()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, restart)
        self._undo.callback(loop.remove_signal_handler, signal.SIGHUP)

    def leave_place(self) -> None:
        """Removes the socket's name, unless it is the next shim's. Idempotent."""
        if self.is_restart:
            self.place.leave()
            return
        if self._store is not None:
            self._store.remove(self._name)
        self.place.remove()

    def end_storing(self) -> None:
        """Leaves what is stored to the next shim. Idempotent."""
        if self._store is not None:
            self._store.close()

    def close(self) -> None:
        """Ends it. Idempotent."""
        self._undo.close()

    @property
    def _name(self) -> str:
        return "{}{}-{}".format(_LISTEN, *self.place.identity)

    def _inherited(self) -> unix.UnixSocket | None:
        for name in [name for name in self._fds if name.startswith(_LISTEN)]:
            device, _, inode = name.removeprefix(_LISTEN).partition("-")
            fd = self._fds[name]
            if device.isdecimal() and inode.isdecimal():
                place = unix.inherited(self._path, os.dup(fd), (int(device), int(inode)))
                if place is not None:
                    os.close(self._fds.pop(name))
                    return place
        return None

    def _close_journal(self, journal: Journal) -> None:
        # Nothing is left of it if nothing is left to be taken up.
        journal.close(remove=not (journal.state.containers or self.is_restart))


def _open_journal(path: str) -> tuple[JournalDirectory, JournalState | None] | None:
    """Takes the journal of a socket over.

    Args:
        path: of the socket, which is this process's.

    Returns:
        Its directory, locked, and what a shim before this one has written since the boot, if there was one;
        None if there can be no journal, with a warning.

    Raises:
        NewerJournalError: the shim before was a newer one.
    """
    directory = JournalDirectory.of_socket(path)
    try:
        directory.make()
        directory.lock()
        state = replay(read_records(directory.read(), directory.journal))
    except (AlreadyExistsError, OSError) as error:
        _log.warning("there is no journal (%s): a shim that is started again takes up nothing", error)
        return None
    except BaseException:
        directory.unlock()
        raise
    if state is not None and not _is_ours(state, directory):
        state = None
    return directory, state


def _is_ours(state: JournalState, directory: JournalDirectory) -> bool:
    if state.header.get("uid") != os.geteuid():
        _log.warning("%s is of another user; it is begun anew", directory.journal)
        return False
    if not state.is_of_this_boot:
        _log.info("%s is of an earlier boot, of which nothing runs; it is begun anew", directory.journal)
        return False
    return True
