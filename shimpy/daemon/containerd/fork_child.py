"""What has just been forked by the fork server becomes what its asker would have become."""

from __future__ import annotations

import contextlib
import os

from shimpy.daemon.containerd import fork_place
from shimpy.daemon.containerd.delete import delete
from shimpy.daemon.containerd.errors import UsageError
from shimpy.daemon.containerd.flags import Flags
from shimpy.daemon.containerd.main import report
from shimpy.daemon.containerd.start import Prepared, detach, limit, prepare
from shimpy.daemon.helper import begin, log
from shimpy.daemon.process_state import raise_file_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shimpy.daemon.containerd.fork_asker import Asker
    from shimpy.daemon.containerd.fork_inherit import Inherited


def become(asker: Asker, theirs: Inherited, own: Inherited) -> int:
    """Does what a command was started for; of a `start` it is the shim to its end. Returns the exit status.

    Args:
        asker: the command, with what has been taken of it.
        theirs: what this process would have inherited of it.
        own: what this process has inherited instead.
    """
    try:
        theirs.adopt(own)
    except (OSError, ValueError) as error:
        log.write("info", "fork server", f"process {asker.pid} does without: {error}")
        return 0
    os.write(asker.answer, fork_place.BEGUN)
    for name, value in asker.environment:
        if value is None:
            del os.environb[name]
        else:
            os.environb[name] = value
    for target, fd in enumerate(asker.standard):
        os.dup2(fd, target)
    os.fchdir(asker.directory)
    begin.set_title([asker.program, *asker.arguments])
    begin.set_name(os.path.basename(asker.program))
    prepared = None

    def act() -> None:
        nonlocal prepared
        flags = Flags(asker.arguments)
        flags.check_names()
        if flags.action == "start":
            prepared = prepare(flags, lambda _, score, cgroup: limit(score, cgroup), asker.program)
        elif flags.action == "delete":
            delete(flags, asker.pid)
        else:
            raise UsageError(f"{flags.action!r} is neither start nor delete")

    status = report(asker.program, act)
    return _tell(asker, prepared, status)


def _tell(asker: Asker, prepared: Prepared | None, status: int) -> int:
    """Lets go of the asker's file descriptors, which containerd waits for, and tells it the outcome."""
    answer = asker.answer
    if prepared is None:
        for fd in (0, 1, 2, *asker.standard):
            os.close(fd)
    else:
        detach(keep=(prepared.place.listener.fileno(), answer))
    # One that was killed is not told: containerd will not come, and the shim ends by itself.
    with contextlib.suppress(BrokenPipeError):
        os.write(answer, str(status).encode())
    os.close(answer)
    if prepared is None:
        return status
    # All else of a clean slate it has of the server.
    raise_file_limit()
    return prepared.run()
