"""A process's terminal: its console, its size, and the relay to the streams."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import os
import stat
import struct
import termios
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shimpy.core.fd_store import FdStore
from shimpy.core.model import Policy, StdioPaths
from shimpy.core.stdio.console import ConsoleSocket
from shimpy.core.stdio.fifo import StdioHub
from shimpy.core.stdio.input_relay import FileDescriptor, InputRelay
from shimpy.core.stdio.relay import OutputRelay
from shimpy.core.stdio.streams import Stream, open_output
from shimpy.errors import FailedPreconditionError, InternalError, InvalidArgumentError

if TYPE_CHECKING:
    from shimpy.core.hooks.tap import Tap
    from shimpy.core.stdio.log_program import Logger
    from shimpy.core.stdio.logs import StartLogger

# The most columns or rows that a struct winsize holds (ioctl_tty(2)).
MAX_WINDOW: Final = 65535

# ioctl_tty(2); in the termios module since Python 3.13 only.
_TIOCGPTPEER: Final = 0x5441


class KeptTerminal(NamedTuple):
    """What there is of a terminal of an earlier shim's; a file descriptor of -1 is not there.

    Attributes:
        source: what is typed on it comes from there.
        sink: what it shows goes there.
        master: the terminal's.
        hold: keeps the source from its end.
        typed: what was read from the source, and is to be typed.
        shown: what was read from the terminal, and is to go to the sink.
        logger: the program that reads what it shows.
    """

    source: int
    sink: int
    master: int
    hold: int = -1
    typed: bytes = b""
    shown: bytes = b""
    logger: Logger | None = None


class TerminalIO:
    """A process with a terminal; see `stdio.ProcessIO`.

    What it writes is relayed until no process has the terminal open any more, children that outlive it
    included; what is written to its stdin, until it exits. An output that fails (a full disk) is
    dropped, with a warning in the log: the process is not told, as on any terminal.

    As with containerd's own shim the end of a stdin FIFO, which comes once `close_stdin` has let go of it and
    its writers have left, hangs the terminal up: its processes get SIGHUP and read EOF, and what was typed
    and not read is gone. With `Policy.relay_output` output ends with the process, as it does there.

    Args:
        hub: watches the terminal, and the FIFO that it is shown on.
        stdio: what it is typed on and shows.
        policy: see above.
        start_logger: starts the program that reads what it shows, in place of stdout.
        tap: gets a copy of what it shows, and is told its size and its end.
    """

    def _begin(self, hub: StdioHub, policy: Policy) -> None:
        self._hub = hub
        self._policy = policy
        self._start_logger: StartLogger | None = None
        self._tap: Tap | None = None
        self._logger: Logger | None = None
        self._master = FileDescriptor(-1)
        self._source = FileDescriptor(-1)
        self._sink = FileDescriptor(-1)
        self._hold = FileDescriptor(-1)
        self._hangs_up = False
        self._size: tuple[int, int] | None = None
        self._exited = False
        self._input: InputRelay | None = None
        self._output: OutputRelay | None = None

    def __init__(
        self,
        hub: StdioHub,
        stdio: StdioPaths,
        policy: Policy,
        start_logger: StartLogger | None,
        tap: Tap | None = None,
    ) -> None:
        self._begin(hub, policy)
        self._start_logger = start_logger
        self._tap = tap
        with ExitStack() as stack:
            with Stream("stdin", stdio.stdin) as stream:
                self._source = FileDescriptor(stream.open(os.O_RDONLY, blocking=False))
                stack.callback(self._source.close)
                # A FIFO that is open for writing here too is not at its end when a writer leaves.
                self._hangs_up = stream.is_fifo
                if self._hangs_up:
                    self._hold.fd = stream.open(os.O_WRONLY, blocking=False)
                    stack.callback(self._hold.close)
            with Stream("stdout", stdio.stdout) as stream:
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

    @classmethod
    def restored(
        cls, hub: StdioHub, policy: Policy, terminal: KeptTerminal, kept: ExitStack, *, lives: bool
    ) -> TerminalIO:
        """Goes on with a terminal that an earlier shim had.

        Args:
            hub: see the class.
            policy: see the class.
            terminal: what there is of it, which is the terminal's own from now on.
            kept: ends what is kept beside it.
            lives: whether its process had not ended when that was last known.
        """
        self = cls.__new__(cls)
        self._begin(hub, policy)
        self.fds, self.console_socket = (-1, -1, -1), None
        self._stack = kept
        self._exited = not lives
        for end, fd in zip((self._source, self._sink, self._master, self._hold), terminal[:4], strict=True):
            end.fd = fd
            self._stack.callback(end.close)
        self._hangs_up = self._source.fd >= 0 and is_fifo(self._source.fd)
        if terminal.logger is not None:
            self._logger = terminal.logger
            self._stack.callback(self._logger.close_outputs)
        if self._master.fd >= 0:
            self._relay(self._master.fd, terminal.typed, terminal.shown)
        return self

    async def prepare(self) -> None:
        """See `ProcessIO.prepare`; a terminal's log program is started once there is a terminal."""

    async def attach(self) -> None:
        """See `ProcessIO.attach`."""
        self._master.fd = await self._console.receive()
        self._stack.callback(self._master.close)
        self._console.close()
        self._null.close()
        if self._start_logger is not None:
            self._logger = await self._start_logger()
            self._stack.callback(self._logger.close_outputs)
            self._sink.close()
            self._sink.fd = self._logger.take_stdout()
            os.set_blocking(self._sink.fd, False)
        try:
            self._relay(self._master.fd)
        except OSError as error:
            raise InternalError(f"the terminal cannot be used: {error.strerror}") from error

    def _relay(self, master: int, typed: bytes = b"", shown: bytes = b"") -> None:
        os.set_blocking(master, False)
        # While the process lives it may close its terminal and open /dev/console again. Without a
        # slave of our own the master would hang up in between: ready at all times, though it takes
        # nothing, and woken whenever the process does that.
        slave = FileDescriptor(fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        self._stack.callback(slave.close)
        self._apply_size()
        stores = self._hub.store is not None
        self._output = OutputRelay(
            self._hub,
            master,
            slave,
            self._sink,
            ends_at_exit=self._policy.relay_output,
            tap=self._tap,
            splices=stores and self._tap is None and self._sink.fd >= 0 and is_fifo(self._sink.fd),
        )
        self._stack.callback(self._output.stop)
        self._output.begin_with(shown)
        self._output.start()
        self._input = InputRelay(
            self._source,
            master,
            self._hang_up if self._hangs_up else lambda: None,
            splices=stores and self._hangs_up,
        )
        self._stack.callback(self._input.stop)
        self._input.begin_with(typed)
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
        if self._master.fd >= 0 and self._size is not None:
            width, height = self._size
            fcntl.ioctl(self._master.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
            if self._tap is not None:
                self._tap.resized(width, height)

    def close_stdin(self) -> None:
        """See `ProcessIO.close_stdin`."""
        self._hold.close()

    def _hang_up(self) -> None:
        if self._output is not None:
            self._output.end()
        self._master.close()

    def store(self, store: FdStore, key: str) -> None:
        """See `ProcessIO.store`."""
        self._master.store(store, f"tty-{key}")
        self._sink.store(store, f"sink-{key}")
        if self._hangs_up:
            self._source.store(store, f"in-{key}")

    def hand_over(self, store: FdStore, key: str) -> dict[str, Any]:
        """See `ProcessIO.hand_over`; of one that is not started nothing is needed but its FIFOs."""
        ends = {"tty": self._master, "in": self._source, "sink": self._sink, "hold": self._hold}
        for name, end in ends.items():
            store.put(f"{name}-{key}", end.fd)
        logger = None if self._logger is None else self._logger.hand_over(store, key)
        known: dict[str, Any] = {"terminal": True, "logger": logger}
        if self._output is not None and self._input is not None:
            if self._master.fd < 0 and not self._output.drained.is_set():
                raise FailedPreconditionError("a terminal that was hung up shows its last")
            store.put(f"slave-{key}", self._output.slave)
            known["typed"] = base64.b64encode(self._input.pending).decode()
            known["shown"] = base64.b64encode(self._output.pending).decode()
        return known

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

    async def finish(self) -> None:
        """See `ProcessIO.finish`; a terminal's log program ends by EOF alone."""

    def close(self) -> None:
        """See `ProcessIO.close`."""
        self._exited = True
        self._stack.close()
        if self._tap is not None:
            self._tap.end()
        # It may refer to this object.
        self._input = None


def is_fifo(fd: int) -> bool:
    """Returns whether a file descriptor is a FIFO's, or a pipe's."""
    return stat.S_ISFIFO(os.fstat(fd).st_mode)


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
