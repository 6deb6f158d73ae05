"""How a process has ended that is another's child: a keeper's, a service manager's, or init's."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
from typing import Final

from shimpy.core.reaper import procfs

# The exit status of a process that was waited for elsewhere, where the kernel does not tell it.
LOST_STATUS: Final = 255

# linux/pidfd.h: PIDFD_GET_INFO of a struct pidfd_info of 64 bytes; mask and cgroup id, ids, exit code.
_GET_INFO: Final = 0xC040FF0B
_INFO: Final = struct.Struct("=QQ11Ii")
_INFO_EXIT: Final = 1 << 3

_log = logging.getLogger(__name__)


def exit_code(pid: int, pidfd: int) -> int | None:
    """Returns how a process has ended: its exit code, or the negative number of the signal; None if it lives.

    A zombie's is in /proc/PID/stat, for root; that of one that its parent has reaped is with its pidfd from
    Linux 6.15 on (ioctl_pidfd(2), PIDFD_INFO_EXIT). Where neither tells it is LOST_STATUS, with a warning.

    Args:
        pid: its process id.
        pidfd: a file descriptor of it.
    """
    if procfs.is_there(pidfd):
        if not procfs.is_dead(pid):
            return None
        with contextlib.suppress(OSError):
            status = procfs.wait_status(pid)
            # Asked last: as long as it is there, its number is no other's.
            if procfs.is_there(pidfd):
                return os.waitstatus_to_exitcode(status)
    code = _info(pidfd)
    if code is None:
        _log.warning("process %d has ended and its parent has the exit status; it is lost", pid)
        return LOST_STATUS
    return code


def _info(pidfd: int) -> int | None:
    request = bytearray(_INFO.pack(_INFO_EXIT, *(0,) * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, request)
    except OSError:  # Linux before 6.13 does not know it
        return None
    mask, *_, status = _INFO.unpack(request)
    return os.waitstatus_to_exitcode(status) if mask & _INFO_EXIT else None
