"""How a process that the keeper has forked becomes the shim."""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn

    from shimpy.daemon.keeper.kept import KeptFds
else:
    import _signal

# The first file descriptor that is passed on (sd_listen_fds(3)).
_FIRST = 3


def become(command: list[str], kept: KeptFds, address: str) -> NoReturn:
    """Becomes the shim, which gets all that is kept, as sd_listen_fds(3) says.

    Args:
        command: its command line.
        kept: what an earlier shim has stored.
        address: where it tells its keeper something.

    Raises:
        OSError: it cannot be run, or there are too few file descriptors.
    """
    # Ctrl-C is for the keeper, which then asks the shim to end: two would be taken for haste.
    os.setpgid(0, 0)
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    fds = kept.fds()
    free = _FIRST + len(fds)
    # None of them may be in the place of another.
    moved = [fd if fd >= free else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, free) for fd in fds]
    for place, fd in enumerate(moved, _FIRST):
        os.dup2(fd, place)
    environment = {**os.environ, "NOTIFY_SOCKET": address}
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    if fds:
        environment["LISTEN_PID"] = str(os.getpid())
        environment["LISTEN_FDS"] = str(len(fds))
        environment["LISTEN_FDNAMES"] = kept.names()
    os.execve(command[0], command, environment)
