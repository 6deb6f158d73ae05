"""A process that has imported all that a shim needs, and forks the shims of its machine's containerds.

The first `start` begins it, with a lock as its file descriptor 3, or a systemd unit does, with the listening
socket there. It never has a second thread nor an event loop of asyncio's, so that what is forked from it is
whole. It answers only who could be itself: of the same user, with the same capabilities, in the same
namespaces, of the same version; all others do without. When it dies, the shims go on.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import NoReturn

from shimpy.daemon.containerd import fork_place
from shimpy.daemon.containerd.fork_child import become
from shimpy.daemon.containerd.loaded import LoadedFiles
from shimpy.daemon.containerd.warm import warm_up
from shimpy.daemon.helper import begin, log, packets
from shimpy.daemon.helper.loop import HelperLoop
from shimpy.daemon.process_state import clean_slate

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket

_NAME = "fork server"

# Where systemd passes the first socket (sd_listen_fds(3)), and a start the lock.
_FIRST = 3

# Seconds without a request and without a shim after which the server ends.
_IDLE_LIMIT = 600.0

# Seconds from one look at the socket's name to the next.
_CHECK_INTERVAL = 30.0


def main(arguments: list[str]) -> int:
    """Forks shims until it is no longer needed, and returns the exit status.

    Args:
        arguments: where to listen; nothing, if systemd has passed the socket.
    """
    clean_slate()
    activated = os.environ.get("LISTEN_PID") == str(os.getpid())
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET"):
        os.environ.pop(name, None)
    begin.detach(keep=[_FIRST])
    begin.set_title(["shimpy: fork server for containerd"])
    warm_up()
    server = ForkServer("" if activated else arguments[0], packets.adopt(_FIRST) if activated else None)
    server.run()
    return 0


class ForkServer:
    """Answers requests, one after the other.

    Args:
        path: where to listen; empty if `listener` is given. Nobody else makes a socket there meanwhile.
        listener: a socket that listens already; its name is not this process's to remove.
    """

    def __init__(self, path: str, listener: _socket.socket | None = None) -> None:
        self._path = path
        self._program = fork_place.program()
        self._surroundings = fork_place.surroundings("self")
        self._credentials = fork_place.credentials("self")
        self._files = LoadedFiles()
        self._shims = 0
        self._loop = HelperLoop()
        self._listener = listener or self._listen()
        self._identity = os.lstat(path).st_ino if path else 0
        self._idle = self._loop.call_later(_IDLE_LIMIT, self._end)
        # What is frozen the collector never touches, so that its pages stay shared.
        gc.collect()
        gc.freeze()

    def run(self) -> None:
        """Serves until it is idle, out of date, or told to end by SIGTERM or SIGINT."""
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), self._accept)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.handle_signal(number, self._end)
        self._loop.call_later(_CHECK_INTERVAL, self._check)
        self._loop.run()
        self._listener.close()
        self._loop.close()

    def _listen(self) -> _socket.socket:
        # That of one that has died: who holds the lock is alone here.
        if os.path.lexists(self._path):
            os.unlink(self._path)
        return packets.listen(self._path)

    def _check(self) -> None:
        """Ends a server that nobody finds any more, because somebody has tidied up."""
        if not self._path:
            return
        if self._is_found():
            self._loop.call_later(_CHECK_INTERVAL, self._check)
        else:
            self._loop.stop()

    def _is_found(self) -> bool:
        try:
            return os.lstat(self._path).st_ino == self._identity
        except OSError:
            return False

    def _end(self) -> None:
        """Ends this server. Whoever has connected and not been answered does it himself."""
        if self._path and self._is_found():
            os.unlink(self._path)
        self._loop.stop()

    def _accept(self) -> None:
        try:
            connection, sender = packets.accept(self._listener)
        except OSError:
            return  # it has gone, or there is no file descriptor for it: it will do without
        fd = connection.fileno()

        def told() -> None:
            self._loop.unwatch(fd)
            giving_up.cancel()
            try:
                self._answer(connection, sender.pid)
            finally:
                connection.close()

        def give_up() -> None:
            self._loop.unwatch(fd)
            connection.close()

        if sender.uid != os.geteuid():
            connection.close()
            return
        self._loop.watch(fd, told)
        giving_up = self._loop.call_later(fork_place.ANSWER_TIMEOUT, give_up)

    def _answer(self, connection: _socket.socket, pid: int) -> None:
        """Forks a process for a request, or closes the connection, by which the asker does without."""
        try:
            packet = packets.receive(connection, longest=fork_place.LONGEST_REQUEST, fds=0)
        except (OSError, packets.CutPacketError) as error:
            log.write("warning", _NAME, f"a request of process {pid}: {error}")
            return
        if packet.data and self._may_stand_in(pid, packet.data):
            self._fork(connection, packet.data, pid)

    def _may_stand_in(self, pid: int, request: bytes) -> bool:
        """Whether a child of this process would be what the asker would become."""
        if self._files.changed():
            log.write("info", _NAME, "the program has changed: the next start begins another server")
            self._end()
            return False
        try:
            return (
                fork_place.ForkRequest(request).program == self._program
                and fork_place.surroundings(pid) == self._surroundings
                and fork_place.credentials(pid) == self._credentials
            )
        except (OSError, ValueError):
            return False

    def _fork(self, connection: _socket.socket, request: bytes, pid: int) -> None:
        try:
            child = self._loop.fork()
        except OSError as error:
            log.write("warning", _NAME, f"cannot fork: {error.strerror}")
            return
        if child == 0:
            self._be_a_shim(connection, request, pid)
        self._idle.cancel()
        self._shims += 1
        pidfd = os.pidfd_open(child)
        self._loop.watch_exit(pidfd, lambda: self._reap(pidfd))

    def _reap(self, pidfd: int) -> None:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        self._shims -= 1
        if not self._shims:
            self._idle = self._loop.call_later(_IDLE_LIMIT, self._end)

    def _be_a_shim(self, connection: _socket.socket, request: bytes, asker: int) -> NoReturn:
        """Does what is asked, to its end; nothing may get back into the server's own code."""
        status = 1
        try:
            status = become(connection, request, asker)
        except BaseException:  # noqa: BLE001
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
