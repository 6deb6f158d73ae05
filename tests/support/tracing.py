"""Who traces other processes and never waits for them (ptrace(2))."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator

from tests.support.forks import fork

PTRACE_SEIZE = 0x4206

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def traced(*pids: int) -> Iterator[None]:
    """Has a process of its own trace every thread of these, until the end of the block."""
    ready, tell = os.pipe()

    def trace() -> None:
        for pid in pids:
            for thread in os.listdir(f"/proc/{pid}/task"):
                if _libc.ptrace(PTRACE_SEIZE, ctypes.c_long(int(thread)), None, None) != 0:
                    os.write(tell, os.strerror(ctypes.get_errno()).encode())
                    return
        os.write(tell, b"ready")
        time.sleep(1000)

    tracer = fork(trace)
    os.close(tell)
    try:
        with open(ready, "rb", buffering=0) as told:
            assert told.read(100) == b"ready"
        yield
    finally:
        os.kill(tracer, signal.SIGKILL)
        os.waitpid(tracer, 0)


_THREADS = """
import os, sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
os.write(1, b"ready")
os.read(0, 1)
os._exit(int(sys.argv[1]))
"""


class OnWord:
    """A child that exits when it is told to.

    Args:
        status: what it exits with.
        threads: it has one more thread.

    Attributes:
        pid: its pid.
    """

    def __init__(self, status: int, *, threads: bool = False) -> None:
        read, self._word = os.pipe()
        ready, tell = os.pipe()

        def wait() -> None:
            os.dup2(read, 0)
            os.dup2(tell, 1)
            if threads:
                os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", _THREADS, str(status)])
            os.closerange(3, 1024)
            os.write(1, b"ready")
            os.read(0, 1)
            os._exit(status)

        self.pid = fork(wait)
        os.close(read)
        os.close(tell)
        with open(ready, "rb", buffering=0) as told:
            assert told.read(100) == b"ready"

    def exit(self) -> None:
        """Has it exit."""
        os.write(self._word, b".")
        self.close()

    def close(self) -> None:
        """Lets go of it; it exits too."""
        os.close(self._word)
