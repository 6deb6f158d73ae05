"""A process's terminal: the relay between its master and the streams of the request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import select
import struct
import termios
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from .console import ConsoleSocket
from .errors import FailedPreconditionError, InternalError
from .fifo import StdioHub
from .streams import Stream, open_output

_DRAIN_TIMEOUT: Final = 2.0
# The kernel gives at most 4 KiB for one read of a master. Several are written as one; what is more
# than this waits for the next turn of the event loop, so that a flood starves nobody.
_OUTPUT_BUFFER: Final = 65536
_INPUT_CHUNK: Final = 4096
_INPUT_CHUNKS_AT_ONCE: Final = 8
# ioctl_tty(2); in the termios module since Python 3.13 only.
_TIOCGPTPEER: Final = 0x5441

_log = logging.getLogger(__name__)


class TerminalIO:
    """A process with a terminal; see `stdio.ProcessIO`.

    What it writes is relayed until nobody has the terminal open any more, children that outlive it
    included; what is written to its stdin, until it exits. An output that fails (a full disk) is
    dropped, with a warning in the log: the process is not told, as on any terminal.
    """

    def __init__(self, hub: StdioHub, stdin: str, stdout: str) -> None:
        self._hub = hub
        self._master = -1
        self._size: tuple[int, int] | None = None
        self._exited = False
        self._input: InputRelay | None = None
        self._output: OutputRelay | None = None
        with ExitStack() as stack:
            with Stream("stdin", stdin) as stream:
                # A FIFO that is open for writing too is not at its end when a writer leaves.
                flags = os.O_RDWR if stream.is_fifo else os.O_RDONLY
                self._source = _Owned(stream.open(flags, blocking=False))
                stack.callback(self._source.close)
            with Stream("stdout", stdout) as stream:
                fd = open_output(hub, stream, stack, blocking=False)
                self._sink = _Owned(fd)
                stack.callback(self._sink.close)
            self._null = _Owned(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            stack.callback(self._null.close)
            self._console = ConsoleSocket()
            stack.callback(self._console.close)
            self._stack = stack.pop_all()
        self.fds = (self._null.fd,) * 3
        self.console_socket: str | None = self._console.path

    async def attach(self) -> None:
        """See `ProcessIO.attach`."""
        master = await self._console.receive()
        self._stack.callback(os.close, master)
        self._console.close()
        self._null.close()
        try:
            self._relay(master)
        except OSError as error:
            raise InternalError(f"the terminal cannot be used: {error.strerror}") from error

    def _relay(self, master: int) -> None:
        os.set_blocking(master, False)
        # While the process lives it may close its terminal and open /dev/console again. With a
        # slave of our own the master does not hang up meanwhile, and what is typed is not lost.
        slave = _Owned(fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        self._stack.callback(slave.close)
        self._master = master
        self._apply_size()
        self._output = OutputRelay(self._hub, master, slave, self._sink)
        self._stack.callback(self._output.stop)
        self._output.start()
        self._input = InputRelay(self._source, master)
        self._stack.callback(self._input.stop)
        if self._exited:
            self.process_exited()
        else:
            self._input.start()

    def resize(self, width: int, height: int) -> None:
        """See `ProcessIO.resize`."""
        if self._exited:
            raise FailedPreconditionError("the process has exited")
        self._size = width, height
        self._apply_size()

    def _apply_size(self) -> None:
        if self._master >= 0 and self._size is not None:
            width, height = self._size
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def process_exited(self) -> None:
        """See `ProcessIO.process_exited`."""
        self._exited = True
        if self._input is not None:
            self._input.stop()
        self._source.close()
        if self._output is not None:
            self._output.process_exited()

    async def drain(self) -> None:
        """See `ProcessIO.drain`."""
        if self._output is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_TIMEOUT):
                    await self._output.drained.wait()

    def close(self) -> None:
        """See `ProcessIO.close`."""
        self._exited = True
        self._master = -1
        self._stack.close()


class _Owned:
    """A descriptor that is closed once, by whoever is first."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class OutputRelay:
    """Moves what a terminal shows to where it is wanted; reads no further while that is full.

    Args:
        hub: watches the master.
        master: not blocking.
        slave: held, and closed when the process has exited and all that it wrote was read.
        sink: not blocking; closed when nobody has the terminal open any more.

    Attributes:
        drained: the process has exited, and all that it wrote has been passed on.
    """

    def __init__(self, hub: StdioHub, master: int, slave: _Owned, sink: _Owned) -> None:
        self.drained = asyncio.Event()
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._master = master
        self._slave = slave
        self._sink = sink
        self._buffer = memoryview(bytearray(_OUTPUT_BUFFER))
        self._begin = self._end = 0
        self._exited = False
        self._waiting = False
        self._next: asyncio.Handle | None = None

    def start(self) -> None:
        """Begins."""
        # By edges: nothing has to be switched off while the sink is full, and a terminal that
        # children keep open after a hang-up costs nothing.
        self._hub.watch(self._master, select.EPOLLIN | select.EPOLLET, self._woken)

    def process_exited(self) -> None:
        """From now on an end of the output is the end."""
        self._exited = True
        self._schedule()

    def stop(self) -> None:
        """Ends it at once; idempotent."""
        self._hub.unwatch(self._master)
        self._stop_waiting()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self.drained.set()

    def _woken(self, _events: int) -> None:
        if not self._waiting and self._next is None:
            self._turn()

    def _schedule(self) -> None:
        if self._next is None:
            self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._next = None
        if not self._flush():
            return
        error = self._fill()
        if not self._flush():
            return
        if error == 0:
            self._schedule()
        elif self._exited:
            self._emptied(error)

    def _fill(self) -> int:
        """Reads until the buffer is full, 0, or nothing is there; returns the error then."""
        while self._end < _OUTPUT_BUFFER:
            try:
                count = os.readv(self._master, [self._buffer[self._end :]])
            except OSError as error:
                return error.errno or errno.EIO
            if count == 0:
                return errno.EIO
            self._end += count
        return 0

    def _emptied(self, error: int) -> None:
        """The process has exited, and all that it wrote has been passed on.

        EAGAIN is to be believed: the kernel moves what is on its way before it says so.
        """
        self.drained.set()
        if self._slave.fd >= 0:
            self._slave.close()
            self._schedule()
        elif error != errno.EAGAIN:
            self._sink.close()

    def _flush(self) -> bool:
        """Writes what was read; False if the rest has to wait."""
        self._stop_waiting()
        while self._begin < self._end and self._sink.fd >= 0:
            try:
                self._begin += os.write(self._sink.fd, self._buffer[self._begin : self._end])
            except BlockingIOError:
                self._loop.add_writer(self._sink.fd, self._turn)
                self._waiting = True
                return False
            except OSError as error:
                _log.warning("the output of a terminal is dropped: %s", error)
                self._sink.close()
        self._begin = self._end = 0
        return True

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._loop.remove_writer(self._sink.fd)
            self._waiting = False


class InputRelay:
    """Types what comes from a stream on a terminal; reads no further while that takes no more.

    The end of a stream is not passed on: a terminal has none.

    Args:
        source: not blocking; closed at its end.
        master: not blocking.
    """

    def __init__(self, source: _Owned, master: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._master = master
        self._pending = b""
        self._stop_waiting: Callable[[], object] | None = None

    def start(self) -> None:
        """Begins."""
        self._wait_for_source()

    def stop(self) -> None:
        """Ends it at once; idempotent."""
        if self._stop_waiting is not None:
            self._stop_waiting()
            self._stop_waiting = None

    def _wait_for_source(self) -> None:
        self.stop()
        fd = self._source.fd
        try:
            self._loop.add_reader(fd, self._turn)
        except PermissionError:
            # A regular file, or a device that never waits (epoll_ctl(2)).
            self._wait_for_master()
        else:
            self._stop_waiting = lambda: self._loop.remove_reader(fd)

    def _wait_for_master(self) -> None:
        self.stop()
        self._loop.add_writer(self._master, self._turn)
        self._stop_waiting = lambda: self._loop.remove_writer(self._master)

    def _turn(self) -> None:
        try:
            for _ in range(_INPUT_CHUNKS_AT_ONCE):
                if not self._pending:
                    try:
                        self._pending = os.read(self._source.fd, _INPUT_CHUNK)
                    except BlockingIOError:
                        self._wait_for_source()
                        return
                    if not self._pending:
                        break
                try:
                    self._pending = self._pending[os.write(self._master, self._pending) :]
                except BlockingIOError:
                    self._wait_for_master()
                    return
            else:
                self._wait_for_source()
                return
        except OSError as error:
            _log.warning("the input of a terminal ends: %s", error)
        self.stop()
        self._source.close()
