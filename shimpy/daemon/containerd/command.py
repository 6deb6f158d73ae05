"""Runs a program, at the price of a spawn: neither asyncio nor subprocess."""

from __future__ import annotations

import os
import select
import signal
import time

# Bytes of output that are kept.
_LONGEST_OUTPUT = 1 << 20


def run(arguments: list[str], *, timeout: float, output: int = 1) -> tuple[int, bytes]:
    """Runs a program and waits for it.

    Args:
        arguments: the program, a name on PATH or a path, and its arguments.
        timeout: seconds until it is killed with its process group.
        output: which of its outputs is returned, 1 or 2; the other is thrown away.

    Returns:
        Its exit status, or 128 + the signal that ended it; and what it wrote.

    Raises:
        OSError: it could not be started.
    """
    reading, writing = os.pipe()
    try:
        try:
            pid = os.posix_spawnp(
                arguments[0],
                arguments,
                # Meant for this process; runc would take it as the container's.
                {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 3 - output, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, writing, output),
                ],
                setpgroup=0,
            )
        finally:
            os.close(writing)
        end = time.monotonic() + timeout
        pidfd = os.pidfd_open(pid)
        try:
            written = _wait(pidfd, reading, end)
            if written is None:
                os.killpg(pid, signal.SIGKILL)
        finally:
            os.close(pidfd)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(reading)
    return 128 - status if status < 0 else status, written or b""


def _wait(pidfd: int, reading: int, end: float) -> bytes | None:
    """Reads until the program has ended; returns None if it has not by then."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(reading, select.POLLIN)
    written = b""
    ended = False
    while True:
        # What it has left behind may hold its output open: of an ended program only what is there is read.
        left = 0 if ended else max(0, end - time.monotonic()) * 1000
        ready = [fd for fd, _ in poll.poll(left)]
        if reading in ready:
            piece = os.read(reading, 1 << 16)
            written += piece[: _LONGEST_OUTPUT - len(written)]
            if not piece:
                poll.unregister(reading)
        elif ended:
            return written
        elif pidfd in ready:
            ended = True
            poll.unregister(pidfd)
        elif not ready:
            return None
