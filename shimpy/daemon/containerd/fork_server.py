"""A process that has imported all that a shim needs, and forks the shims of its machine's containerds.

The first `start` begins it, with a lock as its file descriptor 3, or a systemd unit does, with the FIFO to
listen on there. It never has a second thread nor an event loop of asyncio's, so that what is forked from it
is whole. It answers only who could be itself: of the same user, with the same capabilities, in the same
namespaces, of the same version; all others do without. When it dies, the shims go on.
"""

from __future__ import annotations

import contextlib
import gc
import glob
import os
import signal
import stat
import sys
from typing import NoReturn

from shimpy.daemon.containerd import fork_place
from shimpy.daemon.containerd.delete import answer_if_gone
from shimpy.daemon.containerd.errors import CommandError
from shimpy.daemon.containerd.flags import Flags
from shimpy.daemon.containerd.fork_asker import Asker
from shimpy.daemon.containerd.fork_child import become
from shimpy.daemon.containerd.fork_inherit import Inherited
from shimpy.daemon.containerd.loaded import LoadedFiles
from shimpy.daemon.containerd.warm import warm_up
from shimpy.daemon.helper import begin, log
from shimpy.daemon.helper.loop import HelperLoop
from shimpy.daemon.process_state import clean_slate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "fork server"

# Where systemd passes the first socket (sd_listen_fds(3)), and a start the lock.
_FIRST = 3

# Seconds without a request and without a shim after which the server ends.
_IDLE_LIMIT = 600.0

# Bytes of requests that are read at a time: more than the FIFO holds.
_LONGEST_READ = 1 << 20

# Seconds from one look at the FIFO's name to the next.
_CHECK_INTERVAL = 30.0


def main(arguments: list[str]) -> int:
    """Forks shims until it is no longer needed, and returns the exit status.

    Args:
        arguments: what the name of the FIFO begins with; nothing, if systemd has passed the FIFO.
    """
    clean_slate()
    activated = os.environ.get("LISTEN_PID") == str(os.getpid())
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET"):
        os.environ.pop(name, None)
    begin.detach(keep=[_FIRST])
    begin.set_title(["shimpy: fork server for containerd"])
    warm_up()
    if activated:
        server = ForkServer(fifo=_FIRST)
    else:
        server = ForkServer(arguments[0])
        # It listens: the next one may be begun as soon as this one has ended.
        os.ftruncate(_FIRST, 0)
    server.run()
    return 0


class ForkServer:
    """Answers requests, one after the other.

    Args:
        prefix: what the name of its FIFO begins with; empty if `fifo` is given. Nobody else makes one of such
            a name meanwhile.
        fifo: a FIFO, open for reading and writing; its name is not this process's to remove.
    """

    def __init__(self, prefix: str = "", fifo: int = -1) -> None:
        self._path = f"{prefix}.{os.getpid()}" if prefix else ""
        self._key = fork_place.key()
        self._surroundings = fork_place.surroundings("self")
        self._credentials = fork_place.credentials("self")
        self._files = LoadedFiles()
        self._shims = 0
        self._loop = HelperLoop()
        self._fifo = _make_fifo(prefix) if prefix else fifo
        status = os.fstat(self._fifo)
        self._identity = status.st_dev, status.st_ino
        self._idle = self._loop.call_later(_IDLE_LIMIT, self._end)
        # What is frozen the collector never touches, so that its pages stay shared.
        gc.collect()
        gc.freeze()

    def run(self) -> None:
        """Serves until it is idle, out of date, or told to end by SIGTERM or SIGINT."""
        os.set_blocking(self._fifo, False)
        self._loop.watch(self._fifo, self._read)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.handle_signal(number, self._end)
        self._loop.call_later(_CHECK_INTERVAL, self._check)
        self._loop.run()
        # They do it themselves, and need not wait to find out.
        for asker in self._askers():
            asker.close()
        os.close(self._fifo)
        self._loop.close()

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
            found = os.lstat(self._path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _end(self) -> None:
        """Ends this server."""
        if self._path and self._is_found():
            os.unlink(self._path)
        self._loop.stop()

    def _read(self) -> None:
        for asker in self._askers():
            with contextlib.closing(asker):
                if self._may_stand_in(asker):
                    self._fork(asker)

    def _askers(self) -> Iterator[Asker]:
        """Yields those who have asked by now."""
        try:
            # Lines are written as a whole (PIPE_BUF, pipe(7)). One that is cut here is no request, and its
            # asker does without.
            lines = os.read(self._fifo, _LONGEST_READ).splitlines()
        except BlockingIOError:
            return
        for line in lines:
            try:
                yield Asker(line, self._identity)
            except (OSError, ValueError) as error:
                log.write("info", _NAME, f"a request is passed over: {error}")

    def _may_stand_in(self, asker: Asker) -> bool:
        """Whether a child of this process would be what the asker would become."""
        if self._files.changed():
            log.write("info", _NAME, "the program has changed: the next start begins another server")
            self._end()
            return False
        try:
            return (
                asker.key == self._key
                and fork_place.surroundings(asker.pid) == self._surroundings
                and fork_place.credentials(asker.pid) == self._credentials
            )
        except OSError:
            return False

    def _fork(self, asker: Asker) -> None:
        try:
            own, theirs = Inherited(os.getpid()), Inherited(asker.pid)
            asker.take()
        except OSError as error:
            log.write("info", _NAME, f"process {asker.pid} does without: {error.strerror}")
            return
        if _answer_at_once(asker):
            return
        try:
            child = self._loop.fork()
        except OSError as error:
            log.write("warning", _NAME, f"cannot fork: {error.strerror}")
            return
        if child == 0:
            _be_a_shim(asker, theirs, own)
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


def _make_fifo(prefix: str) -> int:
    """Makes the FIFO in place of those of servers that have died: who holds the lock is alone here."""
    for path in glob.glob(f"{glob.escape(prefix)}.*"):
        if stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)
    path = f"{prefix}.{os.getpid()}"
    os.mkfifo(path, 0o600)
    # Open for writing too, so that it does not end with each that has written.
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _answer_at_once(asker: Asker) -> bool:
    """Answers a `delete` that has nothing to do, as it is after each that containerd has asked a shim for."""
    try:
        flags = Flags(asker.arguments)
        flags.check_names()
        told = answer_if_gone(flags) if flags.action == "delete" else None
        if told is None:
            return False
        os.write(asker.standard[1], told)
        os.write(asker.answer, fork_place.BEGUN + b"0")
    except (OSError, CommandError):
        return False
    return True


def _be_a_shim(asker: Asker, theirs: Inherited, own: Inherited) -> NoReturn:
    """Does what is asked, to its end; nothing may get back into the server's own code."""
    status = 1
    try:
        status = become(asker, theirs, own)
    except BaseException:  # noqa: BLE001 - whatever it is, it ends here
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
