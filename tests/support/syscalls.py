"""Counts the system calls of another process, by tracing it (ptrace(2)); strace would be one more package."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from types import TracebackType
from typing import Self

_SEIZE, _INTERRUPT, _SYSCALL, _DETACH = 0x4206, 0x4207, 24, 17
_TRACESYSGOOD = 1
_WALL = 0x40000000  # __WALL of waitpid(2)
_SYSCALL_STOP = signal.SIGTRAP | 0x80

_libc = ctypes.CDLL(None, use_errno=True)


class SystemCalls:
    """Counts the system calls of a child of this process that has one thread, until the end of the block.

    What the child starts is not counted: it is not traced.

    Args:
        pid: the child.

    Attributes:
        count: how many it has entered so far.
    """

    def __init__(self, pid: int) -> None:
        self.count = 0
        self._pid = pid
        self._ready = threading.Event()
        self._over = threading.Event()
        self._error: OSError | None = None
        # Only the thread that traces a process may go on with it.
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        os.kill(self._pid, signal.SIGURG)  # stops it, wherever it is, and does nothing else
        self._thread.join()

    def _run(self) -> None:
        try:
            _ptrace(_SEIZE, self._pid, _TRACESYSGOOD)
            _ptrace(_INTERRUPT, self._pid)
        except OSError as error:
            self._error = error
            self._ready.set()
            return
        inside = False
        while True:
            _, status = os.waitpid(self._pid, _WALL)
            if not os.WIFSTOPPED(status):
                return  # it has ended
            passed_on = 0
            if os.WSTOPSIG(status) == _SYSCALL_STOP:
                inside = not inside
                self.count += inside
            elif status >> 16 == 0:
                passed_on = os.WSTOPSIG(status)
            if self._over.is_set():
                _ptrace(_DETACH, self._pid, passed_on)
                return
            _ptrace(_SYSCALL, self._pid, passed_on)
            self._ready.set()


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), None, ctypes.c_long(data)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace({request:#x}): {os.strerror(number)}")
