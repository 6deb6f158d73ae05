"""The guardian of one program: waits for its end, then has removed what it has left.

It is there for as long as its program, and most programs leave nothing: so it imports next to nothing, and
what it has to do it leaves to `cleanup` and `deadline`, which import what they need.

Its arguments are the program's directory (`shimpy.core.registry`) and the pid of the program, which is its
parent. Its file descriptor 0 is a connection whose other end only the program has, and its forks.
A message is `KEY TIME WHAT`, which has something killed at that time (seconds of CLOCK_MONOTONIC), or `KEY`
alone, which takes that back.
"""

from __future__ import annotations

import fcntl
import os
import time

from shimpy.daemon.helper import begin, packets
from shimpy.daemon.helper.loop import HelperLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from shimpy.daemon.helper.loop import Timer
else:
    import _signal

_CONTROL = 0
_OWNER = "owner"

# Seconds for what the program was forking when it was killed to become what it was to be. Until then it has
# the other end of the connection, as have other processes that the program itself has forked, for longer.
_FENCE = 1.0


class Guardian:
    """Waits, and acts.

    Args:
        directory: the program's.
        program: its pid.
    """

    def __init__(self, directory: str, program: int) -> None:
        self._directory = directory
        self._program = program
        self._loop = HelperLoop()
        self._control = packets.adopt(_CONTROL)
        self._deadlines: dict[bytes, Timer] = {}

    def run(self) -> None:
        """Waits for the program's end, and has what it has left removed, by this process itself."""
        self._loop.watch(_CONTROL, self._receive)
        try:
            pidfd = os.pidfd_open(self._program)
        except ProcessLookupError:
            self._died()
        else:
            self._loop.watch_exit(pidfd, self._died)
            # Asked after that: as long as it is our parent, its pid is its own.
            if os.getppid() != self._program:
                self._died()
        self._loop.run()
        self._clean_up()

    def _died(self) -> None:
        """Waits for what it was starting: with that, the connection ends."""
        self._loop.call_later(_FENCE, self._loop.stop)

    def _receive(self) -> None:
        key, _, rest = packets.receive(self._control, fds=0).data.partition(b" ")
        if not key:
            self._loop.stop()
            return
        if (timer := self._deadlines.pop(key, None)) is not None:
            timer.cancel()
        if rest:
            when, _, what = rest.partition(b" ")
            seconds = max(0.0, float(when) - time.monotonic())
            self._deadlines[key] = self._loop.call_later(seconds, lambda: self._enforce(key, what))

    def _enforce(self, key: bytes, what: bytes) -> None:
        del self._deadlines[key]
        # Nobody waits for it: see `main`.
        command = begin.command("shimpy.daemon.guardian.deadline", what.decode())
        os.posix_spawn(command[0], command, os.environ, setsigdef=[_signal.SIGCHLD])

    def _clean_up(self) -> None:
        try:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            # It was killed before that had its name, and before it did anything else.
            _remove_empty(f"{self._directory}.new")
            return
        # Who looks whether its program is dead has it locked for a moment; `shimpy prune` until it is gone.
        fcntl.flock(fd, fcntl.LOCK_SH)
        if os.fstat(fd).st_nlink and not _remove_empty(self._directory):
            os.set_inheritable(fd, True)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            command = begin.command("shimpy.daemon.guardian.cleanup", self._directory)
            os.execve(command[0], command, os.environ)


def _remove_empty(directory: str) -> bool:
    """Removes the directory of a program that has left nothing; returns whether it was such."""
    try:
        for name in os.listdir(directory):
            if name != _OWNER:
                os.rmdir(os.path.join(directory, name))
        if os.path.exists(os.path.join(directory, _OWNER)):
            os.unlink(os.path.join(directory, _OWNER))
        os.rmdir(directory)
    except OSError:
        return False
    return True


def main(arguments: list[str]) -> int:
    """Is a guardian to its program's end.

    Args:
        arguments: see the module.

    Returns:
        The exit status.
    """
    begin.detach(keep=[_CONTROL])
    begin.set_name("shimpy-guardian")
    # Whatever is meant for the program, or for all that a supervisor counts to it, comes here too. Children
    # that SIGCHLD is ignored for need not be waited for.
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGCHLD):
        _signal.signal(number, _signal.SIG_IGN)
    Guardian(arguments[0], int(arguments[1])).run()
    return 0
