"""What has just been forked by the fork server becomes what its asker would have become."""

from __future__ import annotations

import contextlib
import os
import resource

from shimpy.daemon.containerd import fork_place
from shimpy.daemon.containerd.flags import Flags
from shimpy.daemon.containerd.main import report
from shimpy.daemon.containerd.start import Prepared, detach, limit, prepare
from shimpy.daemon.helper import begin, log, packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket

# File descriptors that come with the word to go on: the three standard ones, and the bundle.
_FDS = 4

_LIMITS = [value for name, value in sorted(vars(resource).items()) if name.startswith("RLIMIT_")]


def become(connection: _socket.socket, data: bytes, asker: int) -> int:
    """Starts a shim and is it to its end; returns the exit status.

    Nothing is done before the asker says so: one whose timeout is over starts the shim itself.

    Args:
        connection: to the asker.
        data: its request.
        asker: its process id. It is alive as long as it says so.
    """
    request = fork_place.ForkRequest(data)
    try:
        _take_after(asker)
    except (OSError, ValueError) as error:
        log.write("info", "fork server", f"process {asker} does without: {error}")
        return 0
    packets.send(connection, fork_place.READY, wait=False)
    packet = packets.receive(connection, fds=_FDS)
    if packet.data != fork_place.GO or len(packet.fds) != _FDS:
        return 0
    os.environ.clear()
    os.environb.update(request.environment)
    *standard, bundle = packet.fds
    for target, fd in enumerate(standard):
        os.dup2(fd, target)
    os.fchdir(bundle)
    packet.close()
    begin.set_title(request.command_line)
    program, *arguments = request.arguments
    begin.set_name(os.path.basename(program))
    prepared = None

    def start() -> None:
        nonlocal prepared
        prepared = prepare(Flags(arguments), lambda _, score, cgroup: limit(score, cgroup))

    status = report(program, start)
    return _tell(connection, prepared, status)


def _tell(connection: _socket.socket, prepared: Prepared | None, status: int) -> int:
    """Lets go of the asker's file descriptors, which containerd waits for, and tells it the outcome."""
    if prepared is None:
        for fd in (0, 1, 2):
            os.close(fd)
    else:
        detach(keep=(prepared.place.listener.fileno(), connection.fileno()))
    # One that was killed is not told: containerd will not come, and the shim ends by itself.
    with contextlib.suppress(OSError):
        packets.send(connection, str(status).encode(), wait=False)
    connection.close()
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
