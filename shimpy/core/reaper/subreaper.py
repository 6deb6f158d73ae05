"""What waiting for others' children asks of the whole process: changed once, and put back once."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading

from shimpy.errors import FailedPreconditionError

logger = logging.getLogger(__name__)

PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37

_libc = ctypes.CDLL(None, use_errno=True)


class Subreaper:
    """The process's child subreaper attribute and its SIGCHLD, counted: several may want them at once."""

    _lock = threading.Lock()
    _users = 0
    _before = 0
    _ignored = False

    @classmethod
    def acquire(cls) -> None:
        """Makes the process a child subreaper (prctl(2)), and exit statuses be kept.

        Raises:
            FailedPreconditionError: SIGCHLD is ignored, so that the kernel throws exit statuses
                away, and this is not the main thread, the only one that may change that.
        """
        with cls._lock:
            cls._heed_sigchld()
            if cls._users == 0:
                before = ctypes.c_int()
                _prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
                cls._before = before.value
                _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
            cls._users += 1

    @classmethod
    def release(cls) -> None:
        """Puts back what was there before, once for each `acquire`: the last does it."""
        with cls._lock:
            cls._users -= 1
            if cls._users:
                return
            _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(cls._before))
            # A handler that has been set meanwhile is its owner's business.
            if cls._ignored and signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL:
                cls._ignore_sigchld()
            cls._ignored = False

    @classmethod
    def _heed_sigchld(cls) -> None:
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN:
            return
        if threading.current_thread() is not threading.main_thread():
            raise FailedPreconditionError(
                "SIGCHLD is ignored, so exit statuses are lost; "
                "call signal.signal(signal.SIGCHLD, signal.SIG_DFL) in the main thread first"
            )
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        cls._ignored = True

    @classmethod
    def _ignore_sigchld(cls) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        else:
            logger.warning("SIGCHLD stays at its default: only the main thread may ignore it again")


def _prctl(option: int, argument: object) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl")
