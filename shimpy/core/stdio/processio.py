"""What one process reads and writes: opened before its runtime command runs, closed at its Delete.

Output is not copied: a process writes to its FIFO or file itself (see `fifo`), unless the policy has
it relayed (see `output_pipe`), or a program reads it (see `log_program`). Input from a FIFO goes
through a pipe, so that a process that comes before its writer waits instead of reading EOF.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Protocol

from shimpy.core.model import Policy, StdioPaths
from shimpy.core.stdio.fifo import StdioHub
from shimpy.core.stdio.output_pipe import OutputPipe
from shimpy.core.stdio.owner import Owner, give
from shimpy.core.stdio.stdin_pump import StdinPump
from shimpy.core.stdio.streams import Stream, open_output
from shimpy.core.stdio.terminal import TerminalIO
from shimpy.errors import EXHAUSTED, FailedPreconditionError, InternalError, ResourceExhaustedError

if TYPE_CHECKING:
    from shimpy.core.stdio.log_program import Logger
    from shimpy.core.stdio.logs import LogPrograms, StartLogger

__all__ = ["ProcessIO", "StdioHub", "open_stdio"]

_DEFAULT_POLICY: Final = Policy()


class ProcessIO(Protocol):
    """The three file descriptors of one process, or its terminal.

    Attributes:
        fds: what the runtime command gets as its own file descriptors 0, 1 and 2, after `prepare`. They
            are close-on-exec and stay ours until `attach` or `close`.
        console_socket: the path for the runtime's `--console-socket`, with a terminal only.
    """

    fds: tuple[int, int, int]
    console_socket: str | None

    async def prepare(self) -> None:
        """Starts what has to be there before the runtime command: the program that reads the output.

        Raises:
            ShimError: it cannot be run, or was not ready in time; see `log_program`.
        """

    async def attach(self) -> None:
        """The runtime command has succeeded: takes over what the process is given from now on.

        Raises:
            InternalError: there is to be a terminal, and within 1 s the runtime connected none.
            ShimError: with a terminal as for `prepare`; its program is started here.
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
        """Waits until what the process wrote before it exited has been passed on.

        Args:
            timeout: seconds that it waits at most.
        """

    async def finish(self) -> None:
        """Ends the program that reads the output, if one was started by `prepare`. Idempotent."""

    def close(self) -> None:
        """Closes everything; readers see EOF, and unread data is lost. Idempotent.

        Relayed output ends here: a process that still writes gets SIGPIPE. A program
        that reads the output is told so by EOF only.
        """


def open_stdio(
    hub: StdioHub,
    stdio: StdioPaths,
    *,
    policy: Policy = _DEFAULT_POLICY,
    is_exec: bool = False,
    owner: Owner | None = None,
    logs: LogPrograms | None = None,
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
            return TerminalIO(hub, stdio, policy, start)
        return PlainIO(hub, stdio, policy, start, is_exec=is_exec, owner=owner)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raises the kernel's errors as ours."""
    try:
        yield
    except OSError as error:
        failure = ResourceExhaustedError if error.errno in EXHAUSTED else InternalError
        raise failure(f"stdio could not be set up: {error.strerror}") from error


class PlainIO:
    """A process without a terminal; see `ProcessIO`."""

    console_socket: str | None = None

    def __init__(
        self,
        hub: StdioHub,
        stdio: StdioPaths,
        policy: Policy,
        start: StartLogger | None,
        *,
        is_exec: bool,
        owner: Owner | None,
    ) -> None:
        self._pump: StdinPump | None = None
        self._exited = False
        self._hub = hub
        self._owner = owner
        self._stdin = stdio.stdin
        self._hold_stdin = policy.hold_stdin
        self._start = start
        self._logger: Logger | None = None
        self._relays_files = policy.relay_output
        # An init takes all others with it, so that EOF comes to its own FIFO without a relay.
        self._relays_fifos = policy.relay_output and is_exec
        self._relays: list[OutputPipe] = []
        # Pipes, those behind FIFOs among them, that the process itself has open.
        self._pipes: list[int] = []
        self._kept = ExitStack()
        self._lent = ExitStack()
        try:
            # Who holds stdin is told by its writer when to let go; and the writer of an exec can tell that
            # only once it knows of the exec. So its FIFO is opened, which the writer waits for, in `prepare`.
            self._opens_input_late = policy.hold_stdin and is_exec
            with Stream("stdin", stdio.stdin):
                pass  # to tell at once of a path that cannot be used
            first = -1 if self._opens_input_late else self._open_input()
            self.fds = (first, *self._open_outputs(hub, stdio.stdout, stdio.stderr))
        except BaseException:
            self.close()
            raise
        if owner is not None:
            for fd in self._pipes:
                give(fd, owner)

    def _open_input(self) -> int:
        with Stream("stdin", self._stdin) as stream:
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
        with Stream("stdout", stdout) as out, Stream("stderr", stderr) as err:
            first = self._open_output(hub, out)
            # One file description for both, so that neither overwrites or overtakes the other.
            same = out.identity == err.identity
            return first, first if same else self._open_output(hub, err)

    def _open_output(self, hub: StdioHub, stream: Stream) -> int:
        relayed = self._relays_fifos if stream.is_fifo else self._relays_files and stream.is_file
        fd = open_output(hub, stream, self._kept, blocking=not relayed)
        if relayed:
            relay = OutputPipe(fd)
            self._kept.callback(relay.stop)
            self._relays.append(relay)
            fd = relay.child
        if stream.is_fifo or relayed:
            self._pipes.append(fd)
        self._lent.callback(os.close, fd)
        return fd

    async def prepare(self) -> None:
        """See `ProcessIO.prepare`."""
        if self._opens_input_late:
            self._opens_input_late = False
            with _explained():
                fd = self._open_input()
            self.fds = (fd, *self.fds[1:])
            if self._owner is not None and fd in self._pipes:
                give(fd, self._owner)
        if self._start is not None:
            self._logger = await self._start()
            self.fds = (self.fds[0], self._logger.stdout, self._logger.stderr)

    async def attach(self) -> None:
        """See `ProcessIO.attach`."""
        self._lent.close()
        for relay in self._relays:
            relay.start()
        if self._pump is not None and not self._exited:
            self._pump.start()

    def resize(self, width: int, height: int) -> None:
        """See `ProcessIO.resize`."""
        raise FailedPreconditionError("the process has no terminal")

    def close_stdin(self) -> None:
        """See `ProcessIO.close_stdin`."""
        self._hold_stdin = False
        if self._pump is not None:
            self._pump.release_hold()

    def process_exited(self) -> None:
        """See `ProcessIO.process_exited`."""
        self._exited = True
        if self._pump is not None:
            self._pump.stop()
        for relay in self._relays:
            relay.process_exited()

    async def drain(self, timeout: float) -> None:
        """See `ProcessIO.drain`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                for relay in self._relays:
                    await relay.drained.wait()

    async def finish(self) -> None:
        """See `ProcessIO.finish`."""
        if self._logger is not None:
            await self._logger.aclose()

    def close(self) -> None:
        """See `ProcessIO.close`."""
        self._lent.close()
        self._kept.close()
        if self._logger is not None:
            self._logger.close_outputs()
