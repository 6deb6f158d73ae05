"""What waiting for others' children asks of the whole process: changed once, and put back once."""

from __future__ import annotations

import logging
import signal
import threading

from shimpy import linux
from shimpy.errors import FailedPreconditionError

_log = logging.getLogger(__name__)


class Subreaper:
    """The process's child subreaper attribute and its SIGCHLD, counted: several may want them at once."""

    _lock = threading.Lock()
    _users = 0
    _before = False
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
                cls._before = linux.is_child_subreaper()
                linux.set_child_subreaper(True)
            cls._users += 1

    @classmethod
    def release(cls) -> None:
        """Puts back what was there before, once for each `acquire`: the last does it."""
        with cls._lock:
            cls._users -= 1
            if cls._users:
                return
            linux.set_child_subreaper(cls._before)
            # A handler that was set in the meantime belongs to its owner.
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
            _log.warning("SIGCHLD stays at its default: only the main thread may ignore it again")
