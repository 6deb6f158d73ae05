"""`start`: finds the shim of a container's group, or forks a new one, and prints its address."""

from __future__ import annotations

import os
import select
import signal

from shimpy.daemon.containerd import sockets
from shimpy.daemon.containerd.bootstrap import Bootstrap, read_stdin
from shimpy.daemon.containerd.errors import CommandError
from shimpy.daemon.containerd.flags import Flags
from shimpy.daemon.containerd.program import command_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

# By which of its annotations a container belongs to a group, the first first.
_GROUP_ANNOTATIONS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")

_LARGEST_OOM_SCORE = 1000

# What the daemon says once it is on its own feet; anything else is why it is not.
_READY = b"ready"

# Milliseconds for that: it is some ten system calls.
_READY_TIMEOUT = 10_000


class Prepared:
    """A shim that has all but been started: containerd knows its address, and nobody serves it yet.

    Attributes:
        place: where containerd connects to.
        command: by which an upgrade runs the program, up to the action.
    """

    def __init__(
        self, flags: Flags, bootstrap: Bootstrap, place: sockets.Place, command: Sequence[str]
    ) -> None:
        self.place = place
        self.command = command
        self._flags = flags
        self._bootstrap = bootstrap

    def run(self) -> int:
        """Serves to the end of the group, and returns the exit status."""
        from shimpy.daemon.containerd.daemon import run

        return run(
            self.place,
            container_id=self._flags.id,
            namespace=self._flags.namespace,
            ttrpc_address=self._bootstrap.ttrpc_address,
            debug=self._bootstrap.debug,
            command=self.command,
        )


def start(flags: Flags) -> None:
    """Starts a shim as a process of its own; otherwise as `prepare`."""
    prepare(flags, _spawn)


def prepare(flags: Flags, launch: Callable[[Prepared, int, str], None], program: str = "") -> Prepared | None:
    """Answers containerd with the address of the container's shim, on file descriptor 1.

    The answer is the bare address, which every containerd takes, and by which each of them knows that this
    shim wants a start and a delete for every container of a group.

    Args:
        flags: of the command line.
        launch: called before the answer, if there is no shim for the group yet, with the shim, its OOM score
            and its cgroup.
        program: as which this was started, if that was in another process.

    Returns:
        The shim that `launch` was called with.

    Raises:
        CommandError: there is none; nothing is left of it.
        OSError: the kernel refused.
        MalformedError: what containerd sent is not understood.
    """
    bootstrap = Bootstrap(flags, read_stdin())
    cgroup = bootstrap.shim_cgroup
    path = sockets.path_of(bootstrap.address, flags.namespace, _group(flags.id), bootstrap.socket_directory)
    place = sockets.take(path, flags.id)
    prepared = None if place is None else Prepared(flags, bootstrap, place, command_line(flags, program))
    address = f"unix://{path}".encode()
    try:
        _write_address(address)
        try:
            if prepared is not None:
                launch(prepared, _oom_score(), cgroup)
            os.write(1, address)
        except BaseException:
            os.unlink("address")
            raise
    except BaseException:
        if place is not None:
            place.remove()
        raise
    return prepared


def _group(container_id: str) -> str:
    """Returns the group that the bundle in the current directory names, or the container's id.

    Raises:
        CommandError: config.json is missing or invalid.
    """
    import json

    try:
        with open("config.json", "rb") as file:
            annotations = json.load(file).get("annotations") or {}
        found = (annotations.get(name) for name in _GROUP_ANNOTATIONS)
        group = next((each for each in found if each is not None), container_id)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CommandError(f"config.json: {error}") from error
    if not isinstance(group, str):
        raise CommandError(f"config.json: the group is not a text: {group!r:.64}")
    return group


def _write_address(address: bytes) -> None:
    """Writes the file by which containerd 1 finds the shim after a restart: all of it, or nothing."""
    temporary = f".address.{os.getpid()}"
    try:
        with open(temporary, "xb", buffering=0) as file:
            file.write(address)
        os.rename(temporary, "address")
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise


def _spawn(prepared: Prepared, score: int, cgroup: str) -> None:
    """Forks the daemon, and returns once it depends on nothing of containerd's.

    A fork, because an interpreter has been started already; this process has one thread.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_the_daemon(prepared, score, cgroup, writing)
    os.close(writing)
    prepared.place.listener.close()
    try:
        _check_ready(reading)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(reading)


def _check_ready(report: int) -> None:
    """Waits until the daemon says that it is ready, or why it is not."""
    poll = select.poll()
    poll.register(report, select.POLLIN)
    told = b""
    while poll.poll(_READY_TIMEOUT):
        piece = os.read(report, 1 << 12)
        told += piece
        if not piece:
            if told != _READY:
                raise CommandError(told.decode(errors="replace") or "the shim ended before it was ready")
            return
    raise CommandError(f"the shim is not ready after {_READY_TIMEOUT // 1000} s")


def _oom_score() -> int:
    """Returns the OOM score adjustment for the shim: it is to die before containerd, if either must.

    This process has containerd's.
    """
    with open("/proc/self/oom_score_adj", "rb", buffering=0) as file:
        return min(int(file.read()) + 1, _LARGEST_OOM_SCORE)


def _be_the_daemon(prepared: Prepared, score: int, cgroup: str, report: int) -> NoReturn:
    """Lets go of all that is containerd's, says so, and serves to its end."""
    status = 1
    try:
        try:
            detach(keep=(prepared.place.listener.fileno(), report))
            limit(score, cgroup)
        except BaseException as error:
            os.write(report, str(error).encode(errors="replace"))
            raise
        os.write(report, _READY)
        os.close(report)
        from shimpy.daemon.process_state import clean_slate

        clean_slate()
        status = prepared.run()
    except BaseException:  # noqa: BLE001 - nothing may get back into the code of the start
        import sys

        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def detach(keep: Sequence[int]) -> None:
    """Takes a session of its own, leaves the bundle, and has the bundle's FIFO `log` as its stderr.

    containerd reads the log there; without it there is no reader.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        # It fails at once if containerd does not read, and never waits.
        log = os.open("log", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        log = null
    os.chdir("/")
    for fd, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(fd, target)
    first = 3
    for fd in sorted(keep):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def limit(score: int, cgroup: str) -> None:
    """Gives this process its OOM score and, if they are wanted, its cgroup and its scheduling cookie."""
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"%d" % score)
    except PermissionError:
        pass  # containerd's has been lowered meanwhile: this process keeps the higher one
    if cgroup or os.environ.get("SCHED_CORE"):
        from shimpy.daemon.containerd import limits

        if cgroup:
            limits.join_cgroup(cgroup)
        if os.environ.get("SCHED_CORE"):
            limits.share_core()
