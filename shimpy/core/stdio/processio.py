"""What one process reads and writes: opened before its runtime command runs, closed at its Delete.

Output is not copied: a process writes to its FIFO or file itself (see `fifo`). Input from a FIFO
goes through a pipe, so that a process that comes before its writer waits instead of reading EOF.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import select
from contextlib import ExitStack
from typing import Final, Protocol

from shimpy.core.model import StdioPaths
from shimpy.core.stdio.fifo import StdioHub, poll
from shimpy.core.stdio.owner import Owner, give
from shimpy.core.stdio.streams import Stream, open_output
from shimpy.core.stdio.terminal import TerminalIO
from shimpy.errors import EXHAUSTED, FailedPreconditionError, InternalError, ResourceExhaustedError

__all__ = ["ProcessIO", "StdioHub", "open_stdio"]

# In bytes. What the pump has moved is lost to others if the process exits without reading it. One
# page keeps that small; it costs speed, which for what is typed or piped in does not matter.
_PIPE_SIZE: Final = 4096
_SPLICES_AT_ONCE: Final = 16
_SPLICE_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

_log = logging.getLogger(__name__)


class ProcessIO(Protocol):
    """The three file descriptors of one process, or its terminal.

    Attributes:
        fds: what the runtime command gets as its own file descriptors 0, 1 and 2. They are
            close-on-exec and stay ours until `attach` or `close`.
        console_socket: the path for the runtime's `--console-socket`, with a terminal only.
    """

    fds: tuple[int, int, int]
    console_socket: str | None

    async def attach(self) -> None:
        """The runtime command has succeeded: takes over what the process is given from now on.

        Raises:
            InternalError: there is to be a terminal, and within 1 s the runtime connected none.
        """

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the terminal; the kernel sends SIGWINCH if it is a new one.

        Before `attach` it sets the size that the process will find.

        Args:
            width: columns, at most 65,535.
            height: rows, at most 65,535.

        Raises:
            FailedPreconditionError: there is no terminal, or not any more.
        """

    def close_stdin(self) -> None:
        """Lets go of a stdin that was held open: EOF comes once its writers have closed too. Idempotent."""

    def process_exited(self) -> None:
        """The process has been reaped: nothing more is read for it."""

    async def drain(self, timeout: float) -> None:
        """Waits until what was written to the terminal has reached its output.

        Args:
            timeout: seconds that it waits at most.
        """

    def close(self) -> None:
        """Lets go of everything; readers see EOF, and what nobody read is gone. Idempotent."""


def open_stdio(hub: StdioHub, stdio: StdioPaths, *, owner: Owner | None = None) -> ProcessIO:
    """Opens what a process is to read and write. Never waits for anyone.

    Each path is empty for /dev/null, or absolute and names a FIFO, a regular file (outputs are
    appended to) or a character device; stdout and stderr may be the same. With a terminal, stderr
    is not used.

    Args:
        hub: watches the FIFOs; of the running event loop.
        stdio: what the process reads and writes, or its terminal shows and is typed on it.
        owner: whom the FIFOs that the process writes, and the pipe that it reads, are made to belong
            to, so that it may open /dev/stdout anew; None: nobody else. Files, devices and the FIFO
            that stdin comes from keep their owner, and with a terminal all do.

    Raises:
        NotFoundError: a path is not there; like all below it names the field and the path.
        InvalidArgumentError: a path is not absolute, or names something else.
        PermissionDeniedError: a path may not be opened.
        ResourceExhaustedError: no file descriptor was left.
        InternalError: there is no place for a temporary file.
    """
    try:
        if stdio.terminal:
            return TerminalIO(hub, stdio.stdin, stdio.stdout)
        return PlainIO(hub, stdio, owner)
    except OSError as error:
        failure = ResourceExhaustedError if error.errno in EXHAUSTED else InternalError
        raise failure(f"stdio could not be set up: {error.strerror}") from error


class PlainIO:
    """A process without a terminal; see `ProcessIO`."""

    console_socket: str | None = None

    def __init__(self, hub: StdioHub, stdio: StdioPaths, owner: Owner | None) -> None:
        self._pump: StdinPump | None = None
        self._exited = False
        # Pipes, those behind FIFOs among them, that the process itself has open.
        self._pipes: list[int] = []
        self._kept = ExitStack()
        self._lent = ExitStack()
        try:
            self.fds = (
                self._open_input(hub, stdio.stdin),
                *self._open_outputs(hub, stdio.stdout, stdio.stderr),
            )
        except BaseException:
            self.close()
            raise
        if owner is not None:
            for fd in self._pipes:
                give(fd, owner)

    def _open_input(self, hub: StdioHub, path: str) -> int:
        with Stream("stdin", path) as stream:
            fd = stream.open(os.O_RDONLY, blocking=not stream.is_fifo)
            if stream.is_fifo:
                self._pump = StdinPump(hub, fd)
                self._kept.callback(self._pump.stop)
                fd = self._pump.child
                self._pipes.append(fd)
        self._lent.callback(os.close, fd)
        return fd

    def _open_outputs(self, hub: StdioHub, stdout: str, stderr: str) -> tuple[int, int]:
        with Stream("stdout", stdout) as out, Stream("stderr", stderr) as err:
            first = self._open_output(hub, out)
            # One file description for both, so that neither overwrites or overtakes the other.
            same = out.identity == err.identity
            return first, first if same else self._open_output(hub, err)

    def _open_output(self, hub: StdioHub, stream: Stream) -> int:
        fd = open_output(hub, stream, self._kept)
        if stream.is_fifo:
            self._pipes.append(fd)
        self._lent.callback(os.close, fd)
        return fd

    async def attach(self) -> None:
        """See `ProcessIO.attach`."""
        self._lent.close()
        if self._pump is not None and not self._exited:
            self._pump.start()

    def resize(self, width: int, height: int) -> None:
        """See `ProcessIO.resize`."""
        raise FailedPreconditionError("the process has no terminal")

    def close_stdin(self) -> None:
        """See `ProcessIO.close_stdin`."""

    def process_exited(self) -> None:
        """See `ProcessIO.process_exited`."""
        self._exited = True
        if self._pump is not None:
            self._pump.stop()

    async def drain(self, timeout: float) -> None:
        """See `ProcessIO.drain`."""

    def close(self) -> None:
        """See `ProcessIO.close`."""
        self._lent.close()
        self._kept.close()


class StdinPump:
    """Moves what is written to a FIFO into a pipe, as fast as the process takes it.

    The process reads EOF once writers have come and the last one has closed; that is final. When
    it closes its end itself or exits, the FIFO is closed, so that writers get EPIPE. At most one
    page is then taken from the FIFO and not read.

    Args:
        hub: watches the process's end.
        fifo: the FIFO, open for reading and not blocking; the pump's own from now on.

    Attributes:
        child: the end that the process reads, the caller's to close.
    """

    def __init__(self, hub: StdioHub, fifo: int) -> None:
        self._hub = hub
        self._fifo = fifo
        self._loop = asyncio.get_running_loop()
        try:
            self.child, self._pipe = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(fifo)
            raise
        # The two ends have a file description each: this leaves the process's end blocking.
        os.set_blocking(self._pipe, False)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        try:
            hub.watch(self._pipe, 0, self._process_let_go)
        except OSError:
            self.stop()
            os.close(self.child)
            raise

    def start(self) -> None:
        """Begins, once nobody but the process has the other end."""
        # A FIFO that no writer has opened yet is not ready, unlike one whose writers have left.
        if self._fifo >= 0:
            self._loop.add_reader(self._fifo, self._move)

    def stop(self) -> None:
        """Ends it: the process reads EOF, writers get EPIPE. Idempotent."""
        if self._fifo < 0:
            return
        self._loop.remove_reader(self._fifo)
        self._loop.remove_writer(self._pipe)
        self._hub.unwatch(self._pipe)
        os.close(self._fifo)
        os.close(self._pipe)
        self._fifo = self._pipe = -1

    def _process_let_go(self, _events: int) -> None:
        if poll(self._pipe) & select.POLLERR:
            self.stop()

    def _move(self) -> None:
        for _ in range(_SPLICES_AT_ONCE):
            try:
                moved = os.splice(self._fifo, self._pipe, 65536, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                self._wait()
                return
            except OSError as error:
                if error.errno != errno.EPIPE:
                    _log.warning("the stdin of a process ends: %s", error)
                moved = 0
            if moved == 0:
                self.stop()
                return

    def _wait(self) -> None:
        """Waits for the side that is in the way, and for that only: the other may be ready."""
        if poll(self._pipe, select.POLLOUT):
            self._loop.remove_writer(self._pipe)
            self._loop.add_reader(self._fifo, self._move)
        else:
            self._loop.remove_reader(self._fifo)
            self._loop.add_writer(self._pipe, self._move)
