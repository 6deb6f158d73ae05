"""What this program has of its own on the machine: its directory in the registry, and its guardian."""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from shimpy.core import tempdirs
from shimpy.core.registry import ProgramDirectory
from shimpy.core.runtime import environment
from shimpy.daemon.helper import begin, packets
from shimpy.errors import from_oserror

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_log = logging.getLogger("shimpy.shim")


class _Program:
    """The directory of this process and the guardian that removes it; made when they are first needed.

    Attributes:
        guardian: the guardian's pid, 0 before there is one. It is a child of this process, in a session of
            its own, and lives as long as this process.
        kept: folders that `folder` leaves to the guardian.
    """

    def __init__(self) -> None:
        self.guardian = 0
        self.kept: set[str] = set()
        self._directory: ProgramDirectory | None = None
        self._lock_fd = -1
        self._control: socket.socket | None = None
        self._opening = threading.Lock()  # each shim may be in a thread of its own

    def open(self) -> ProgramDirectory:
        """Returns the directory, and sees to it that its guardian is there.

        Raises:
            ShimError: there is no place for it, or no process or file descriptor left.
        """
        with self._opening:
            try:
                if self._directory is None:
                    directory = ProgramDirectory(ProgramDirectory.new_name())
                    # It is there before what it is to remove, so that there is never anything without it.
                    self._start(directory)
                    self._lock_fd = directory.make()
                    environment.mark[environment.PROGRAM] = directory.name
                    self._directory = directory
                elif self._is_guardian_dead():
                    self._end()
                    self._start(self._directory)
            except OSError as error:
                if self._directory is None:
                    self._end()
                what = f"what this program starts cannot be written down in {tempdirs.base()}"
                raise from_oserror(error, what) from error
            return self._directory

    @contextmanager
    def folder(self) -> Iterator[str]:
        """Gives a temporary directory for the time of the block.

        Raises:
            ShimError: there is no place for it.
        """
        directory = self.make_folder()
        try:
            yield directory
        finally:
            if directory not in self.kept:
                shutil.rmtree(directory, ignore_errors=True)

    def make_folder(self) -> str:
        """Makes a temporary directory, which the caller removes, and returns its path.

        Raises:
            ShimError: there is no place for it.
        """
        directory = self.open()
        try:
            return directory.make_folder()
        except OSError as error:
            raise from_oserror(error, "cannot make a temporary directory") from error

    def send(self, message: str) -> None:
        """Tells the guardian something; one that is dead, or takes nothing, hears nothing.

        Args:
            message: see `daemon.guardian.main`.
        """
        if self._control is not None:
            try:
                packets.send(self._control, message.encode(), wait=False)
            except OSError as error:
                _log.warning("the guardian of this program cannot be told: %s", error.strerror)

    def forget(self) -> None:
        """Lets go of what is another process's, as a fork of it has to."""
        self._opening = threading.Lock()
        self._directory = None
        self.kept.clear()
        environment.mark.clear()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        if self._control is not None:
            self._control.close()
            self._control = None
        self.guardian = 0

    def _start(self, directory: ProgramDirectory) -> None:
        ours, theirs = packets.pair()
        with closing(theirs):
            command = begin.command("shimpy.daemon.guardian.main", directory.path, str(os.getpid()))
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                self.guardian = os.posix_spawn(
                    command[0],
                    command,
                    os.environ,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                        (os.POSIX_SPAWN_DUP2, null, 1),
                        (os.POSIX_SPAWN_DUP2, null, 2),
                    ],
                    setsid=True,
                    setsigmask=(),
                    setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
                )
            except BaseException:
                ours.close()
                raise
            finally:
                os.close(null)
        self._control = ours

    def _is_guardian_dead(self) -> bool:
        if self._control is None:
            return True
        poller = select.poll()
        poller.register(self._control, 0)
        return bool(poller.poll(0))

    def _end(self) -> None:
        """Waits for a guardian that is dead, or dies now that nobody has its socket."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self.guardian:
            with suppress(ChildProcessError):  # the program has reaped it, by waitpid(-1)
                os.waitpid(self.guardian, 0)
            self.guardian = 0


# One for each process.
program = _Program()
os.register_at_fork(after_in_child=program.forget)
