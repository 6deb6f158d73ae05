"""A process's terminal: its console, its size, and the relay to the streams."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from contextlib import ExitStack
from typing import Final

from shimpy.core.stdio.console import ConsoleSocket
from shimpy.core.stdio.fifo import StdioHub
from shimpy.core.stdio.relay import FileDescriptor, InputRelay, OutputRelay
from shimpy.core.stdio.streams import Stream, open_output
from shimpy.errors import FailedPreconditionError, InternalError, InvalidArgumentError

# The most columns or rows that a struct winsize holds (ioctl_tty(2)).
MAX_WINDOW: Final = 65535

# ioctl_tty(2); in the termios module since Python 3.13 only.
_TIOCGPTPEER: Final = 0x5441


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
                self._source = FileDescriptor(stream.open(flags, blocking=False))
                stack.callback(self._source.close)
            with Stream("stdout", stdout) as stream:
                fd = open_output(hub, stream, stack, blocking=False)
                self._sink = FileDescriptor(fd)
                stack.callback(self._sink.close)
            self._null = FileDescriptor(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
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
        # While the process lives it may close its terminal and open /dev/console again. Without a
        # slave of our own the master would hang up meanwhile: ready at all times, though it takes
        # nothing, and woken whenever the process does that.
        slave = FileDescriptor(fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
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

    def close_stdin(self) -> None:
        """See `ProcessIO.close_stdin`."""

    def process_exited(self) -> None:
        """See `ProcessIO.process_exited`."""
        self._exited = True
        if self._input is not None:
            self._input.stop()
        self._source.close()
        if self._output is not None:
            self._output.process_exited()

    async def drain(self, timeout: float) -> None:
        """See `ProcessIO.drain`."""
        if self._output is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._output.drained.wait()

    def close(self) -> None:
        """See `ProcessIO.close`."""
        self._exited = True
        self._master = -1
        self._stack.close()


def check_window(width: int, height: int) -> None:
    """Refuses a size that no terminal can have.

    Args:
        width: in columns.
        height: in rows.

    Raises:
        InvalidArgumentError: naming the one that is out of range.
    """
    for name, value in (("width", width), ("height", height)):
        if not 0 <= value <= MAX_WINDOW:
            raise InvalidArgumentError(f"{name}: {value} is over {MAX_WINDOW}, the most a terminal can have")
