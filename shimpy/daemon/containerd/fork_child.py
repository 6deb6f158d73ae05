"""What has just been forked by the fork server becomes what its asker would have become."""

from __future__ import annotations

import contextlib
import os
import resource

from shimpy.daemon.containerd import fork_place
from shimpy.daemon.containerd.delete import delete
from shimpy.daemon.containerd.errors import UsageError
from shimpy.daemon.containerd.flags import Flags
from shimpy.daemon.containerd.main import report
from shimpy.daemon.containerd.start import Prepared, detach, limit, prepare
from shimpy.daemon.helper import begin, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shimpy.daemon.containerd.fork_asker import Asker

_LIMITS = [value for name, value in sorted(vars(resource).items()) if name.startswith("RLIMIT_")]


def become(asker: Asker) -> int:
    """Does what a command was started for; of a `start` it is the shim to its end. Returns the exit status.

    Args:
        asker: the command, with what has been taken of it.
    """
    try:
        _take_after(asker.pid)
    except (OSError, ValueError) as error:
        log.write("info", "fork server", f"process {asker.pid} does without: {error}")
        return 0
    os.write(asker.answer, fork_place.BEGUN)
    os.environ.clear()
    os.environb.update(asker.environment)
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
            prepared = prepare(flags, lambda _, score, cgroup: limit(score, cgroup))
        elif flags.action == "delete":
            delete(flags)
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
    return status if prepared is None else prepared.run()


def _take_after(asker: int) -> None:
    """Takes what a child would inherit of the asker and this process has of the server's own."""
    for number in _LIMITS:
        limits = resource.prlimit(asker, number)
        if limits != resource.getrlimit(number):
            resource.setrlimit(number, limits)
    with open(f"/proc/{asker}/oom_score_adj", "rb") as score, open("/proc/self/oom_score_adj", "r+b") as own:
        if (theirs := score.read()) != own.read():
            own.write(theirs)
    os.sched_setaffinity(0, os.sched_getaffinity(asker))
    nice = os.getpriority(os.PRIO_PROCESS, asker)
    if nice != os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with open(f"/proc/{asker}/cgroup", "rb") as theirs_file, open("/proc/self/cgroup", "rb") as file:
        cgroups = theirs_file.read()
        if cgroups == file.read():
            return
    from shimpy.daemon.containerd.limits import join_cgroups_of

    join_cgroups_of(os.fsdecode(cgroups))
