"""The keeper's children: what earlier shims had started, and what that had started and left."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shimpy.daemon.keeper.kept import KeptFds

# The first kernel whose pidfds tell the exit status of a process that was reaped (PIDFD_GET_INFO with
# PIDFD_INFO_EXIT, linux/pidfd.h).
_REMEMBERS_EXITS = (6, 15)


def remembers_exits(release: str | None = None) -> bool:
    """Returns whether a pidfd of a process that was reaped tells its exit status.

    Args:
        release: of the kernel, as uname(2) has it; None: of this one.
    """
    parts = (release or os.uname().release).replace("-", ".").split(".")[:2]
    return all(part.isdecimal() for part in parts) and tuple(map(int, parts)) >= _REMEMBERS_EXITS


class Children:
    """Reaps those that nobody needs any more.

    Args:
        kept: the shim's file descriptors.
        wait_for_leave: do not reap a process whose pidfd is kept: its exit status would be lost.
    """

    def __init__(self, kept: KeptFds, *, wait_for_leave: bool) -> None:
        self._kept = kept
        self._wait_for_leave = wait_for_leave

    def reap(self, *, but: int) -> None:
        """Reaps all that have ended.

        Args:
            but: the shim, which is not.
        """
        if self._wait_for_leave:
            for pid in _all():
                if pid != but and not self._kept.holds(pid):
                    _reap(pid)
            return
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            # The shim's end is told by its pidfd, and then these are not to be reaped yet.
            if ended is None or ended.si_pid == but:
                return
            _reap(ended.si_pid)


def _reap(pid: int) -> None:
    """Reaps a child, if it has ended."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def _all() -> list[int]:
    """Returns the children (proc_pid_children(5)), those of this process's only thread."""
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
        return [int(pid) for pid in file.read().split()]
