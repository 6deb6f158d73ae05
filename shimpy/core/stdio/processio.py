"""What one process reads and writes: opened before its runtime command runs, closed at its Delete.

Output is not copied: a process writes to its FIFO or file itself (see `fifo`), unless the policy has
it relayed (see `output_pipe`), or a program reads it (see `log_program`). Input from a FIFO goes
through a pipe, so that a process that comes before its writer waits instead of reading EOF.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from shimpy.core.model import Policy, StdioPaths
from shimpy.core.stdio.fifo import StdioHub
from shimpy.core.stdio.flows import Flows
from shimpy.core.stdio.interface import ProcessIO
from shimpy.core.stdio.output_pipe import OutputPipe
from shimpy.core.stdio.owner import Owner, give
from shimpy.core.stdio.stdin_pump import StdinPump
from shimpy.core.stdio.streams import Stream, open_output
from shimpy.core.stdio.terminal import TerminalIO
from shimpy.errors import EXHAUSTED, InternalError, ResourceExhaustedError

if TYPE_CHECKING:
    from shimpy.core.hooks.tap import Tap
    from shimpy.core.stdio.log_program import Logger
    from shimpy.core.stdio.logs import LogPrograms, StartLogger

__all__ = ["ProcessIO", "StdioHub", "open_stdio"]

_DEFAULT_POLICY: Final = Policy()


def open_stdio(
    hub: StdioHub,
    stdio: StdioPaths,
    *,
    policy: Policy = _DEFAULT_POLICY,
    is_exec: bool = False,
    owner: Owner | None = None,
    logs: LogPrograms | None = None,
    tap: Tap | None = None,
) -> ProcessIO:
    """Opens what a process is to read and write. Never waits for anyone.

    Each path is empty for /dev/null, or absolute and names a FIFO, a regular file (outputs are
    appended to) or a character device; stdout and stderr may be the same. With a terminal, stderr
    is not used.

    Args:
        hub: watches the FIFOs; of the running event loop.
        stdio: what the process reads and writes, or its terminal shows and is typed on it.
        policy: see `Policy.relay_output` and `Policy.hold_stdin`.
        is_exec: whether others of its container may go on when the process has ended.
        owner: whom the FIFOs and pipes that the process writes, and the pipe that it reads, are made
            to belong to, so that it may open /dev/stdout anew; None: they are left as they are. Files,
            devices and the FIFO that stdin comes from keep their owner, and with a terminal all do.
        logs: reads URIs in place of stdout; None: they are refused.
        tap: gets a copy of all output, which goes through a pipe of ours then, wherever it goes to; it
            is told the end.

    Raises:
        NotFoundError: a path is not there; like all below it names the field and the path.
        InvalidArgumentError: a path is not absolute, or names something else.
        PermissionDeniedError: a path may not be opened.
        ResourceExhaustedError: no file descriptor was left.
        InternalError: there is no place for a temporary file.
    """
    start = None
    if logs is not None:
        stdio, start = logs.resolve(stdio, owner)
    with _explained():
        if stdio.terminal:
            return TerminalIO(hub, stdio, policy, start, tap)
        return PlainIO(hub, stdio, policy, start, is_exec=is_exec, owner=owner, tap=tap)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raises the kernel's errors as ours."""
    try:
        yield
    except OSError as error:
        failure = ResourceExhaustedError if error.errno in EXHAUSTED else InternalError
        raise failure(f"stdio could not be set up: {error.strerror}") from error


class PlainIO(Flows):
    """A process without a terminal; see `ProcessIO`."""

    def __init__(
        self,
        hub: StdioHub,
        stdio: StdioPaths,
        policy: Policy,
        start: StartLogger | None,
        *,
        is_exec: bool,
        owner: Owner | None,
        tap: Tap | None = None,
    ) -> None:
        super().__init__(ExitStack())
        self._exited = False
        self._hub = hub
        self._owner = owner
        self._stdin = stdio.stdin
        self._hold_stdin = policy.hold_stdin
        self._start = start
        self._tap = tap
        self._relays_files = policy.relay_output
        # An init takes all others with it, so that EOF comes to its own FIFO without a relay.
        self._relays_fifos = policy.relay_output and is_exec
        # Pipes, those behind FIFOs among them, that the process itself has open.
        self._pipes: list[int] = []
        self._lent = ExitStack()
        try:
            # Who holds stdin is told by its writer when to let go; and the writer of an exec can tell that
            # only once it knows of the exec. So its FIFO is opened, which the writer waits for, in `prepare`.
            self._opens_input_late = policy.hold_stdin and is_exec
            first = self._find_input(stdio.stdin)
            self.fds = (first, *self._open_outputs(hub, stdio.stdout, stdio.stderr))
        except BaseException:
            self.close()
            raise
        if owner is not None:
            for fd in self._pipes:
                give(fd, owner)

    def _find_input(self, path: str) -> int:
        if not path:
            self._opens_input_late = False
            self._lent.callback(os.close, null := os.open(os.devnull, os.O_RDONLY))
            return null
        with Stream("stdin", path) as stream:  # to tell at once of a path that cannot be used
            return -1 if self._opens_input_late else self._open_input(stream)

    def _open_input(self, stream: Stream) -> int:
        fd = stream.open(os.O_RDONLY, blocking=not stream.is_fifo)
        if stream.is_fifo:
            self._pump = StdinPump(self._hub, fd)
            self._kept.callback(self._pump.stop)
            fd = self._pump.child
            self._pipes.append(fd)
            self._lent.callback(os.close, fd)
            if self._hold_stdin:
                self._pump.hold(stream.open(os.O_WRONLY, blocking=False))
            return fd
        self._lent.callback(os.close, fd)
        return fd

    def _open_outputs(self, hub: StdioHub, stdout: str, stderr: str) -> tuple[int, int]:
        if not (stdout or stderr or self._tap):
            self._lent.callback(os.close, null := os.open(os.devnull, os.O_WRONLY))
            return null, null
        if stdout == stderr:
            with Stream("stdout", stdout) as both:
                first = self._open_output(hub, both)
                return first, first
        with Stream("stdout", stdout) as out, Stream("stderr", stderr) as err:
            first = self._open_output(hub, out)
            # One file description for both, so that neither overwrites or overtakes the other.
            same = out.identity == err.identity
            return first, first if same else self._open_output(hub, err)

    def _open_output(self, hub: StdioHub, stream: Stream) -> int:
        relayed = self._relays_fifos if stream.is_fifo else self._relays_files and stream.is_file
        # A log program's pipes are taken once there are some.
        relayed = relayed or (self._tap is not None and self._start is None)
        fd = open_output(hub, stream, self._kept, blocking=not relayed)
        if relayed:
            fd = self._relay(fd, stream.field)
        if stream.is_fifo or relayed:
            self._pipes.append(fd)
        self._lent.callback(os.close, fd)
        return fd

    def _relay(self, sink: int, stream: str) -> int:
        """Returns the end of a pipe, for the process, that leads to where its output goes."""
        relay = OutputPipe(sink, None if self._tap is None else (stream, self._tap))
        self._kept.callback(relay.stop)
        self._relays.append(relay)
        return relay.child

    async def prepare(self) -> None:
        """See `ProcessIO.prepare`."""
        if self._opens_input_late:
            self._opens_input_late = False
            with _explained(), Stream("stdin", self._stdin) as stream:
                fd = self._open_input(stream)
            self.fds = (fd, *self.fds[1:])
            if self._owner is not None and fd in self._pipes:
                give(fd, self._owner)
        if self._start is not None:
            self._logger = await self._start()
            outputs = self._logger.stdout, self._logger.stderr
            if self._tap is not None:
                outputs = self._tap_logger(self._logger)
            self.fds = (self.fds[0], *outputs)

    def _tap_logger(self, logger: Logger) -> tuple[int, int]:
        """Returns the ends of pipes that lead to a log program."""
        ends = []
        for stream, fd in (("stdout", logger.stdout), ("stderr", logger.stderr)):
            sink = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            os.set_blocking(sink, False)
            ends.append(self._relay(sink, stream))
            self._lent.callback(os.close, ends[-1])
            if self._owner is not None:
                give(ends[-1], self._owner)
        logger.close_outputs()
        return ends[0], ends[1]

    async def attach(self) -> None:
        """See `ProcessIO.attach`."""
        self._lent.close()
        for relay in self._relays:
            relay.start()
        if self._pump is not None and not self._exited:
            self._pump.start()

    def close_stdin(self) -> None:
        """See `ProcessIO.close_stdin`."""
        self._hold_stdin = False
        super().close_stdin()

    def process_exited(self) -> None:
        """See `ProcessIO.process_exited`."""
        self._exited = True
        super().process_exited()

    def close(self) -> None:
        """See `ProcessIO.close`."""
        self._lent.close()
        super().close()
        if self._tap is not None:
            self._tap.end()
