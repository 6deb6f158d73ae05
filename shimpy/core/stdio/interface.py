"""What a container needs of the stdio of a process, with a terminal or without."""

from __future__ import annotations

from typing import Any, Protocol

from shimpy.core.fd_store import FdStore


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

    def store(self, store: FdStore, key: str) -> None:
        """Has what only the shim holds stored; what is closed is removed there.

        Args:
            store: holds it.
            key: what no other process has.
        """

    def hand_over(self, store: FdStore, key: str) -> dict[str, Any]:
        """Says what there is of it, for the image that this process becomes (execve(2)).

        It is left as it is, and nothing may happen to it any more.

        Args:
            store: gets every file descriptor that is needed to go on.
            key: what no other process has.

        Returns:
            What else has to be known, as JSON has it.

        Raises:
            FailedPreconditionError: it is in the middle of something.
        """

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
