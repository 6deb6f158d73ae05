"""`delete`: removes what is left of a container whose shim is gone, and says how it ended.

containerd calls it whenever a shim's connection ends, also after all has been deleted properly, and waits for
it each time. Then there is nothing to do, and that is found out with a handful of system calls.
"""

from __future__ import annotations

import os
import sys
import time

from shimpy.daemon.containerd import wire
from shimpy.daemon.containerd.errors import CommandError
from shimpy.daemon.containerd.flags import Flags

# Where the runtime keeps its state, a directory for each namespace, unless the options say otherwise.
RUNTIME_ROOT = "/run/containerd/runc"

# Runtimes that keep what they know of a container in a directory of that name, by which it is known to be
# gone.
_WITH_DIRECTORIES = ("runc", "crun", "youki")

# Seconds from the start of the command until the runtime is killed; containerd kills the command after five.
_TIMEOUT = 4.0

# Seconds that the runtime has at least, however long it took to get here.
_LEAST_TIMEOUT = 0.5

_KILLED = 137
_LONGEST_FILE = 1 << 20


def delete(flags: Flags, command: int | str = "self") -> None:
    """Kills and removes the container, unmounts its root filesystem, and prints a DeleteResponse.

    Others of the same group are spared.

    Args:
        flags: of the command line.
        command: the pid of the process that containerd has started, and will kill.

    Raises:
        CommandError: the container is still there.
        OSError: it is not known.
    """
    bundle = flags.bundle or os.getcwd()
    answer = _answer(bundle)
    _delete_container(flags, bundle, command)
    _unmount(os.path.join(bundle, "rootfs"))
    _remove_dead_socket(bundle)
    os.write(1, answer)


def answer_if_gone(flags: Flags) -> bytes | None:
    """Returns what `delete` would print, if it would find nothing to do; else None.

    Raises:
        OSError: it is not known.
    """
    bundle = flags.bundle
    if not os.path.isabs(bundle) or not _is_without_options(bundle):
        return None
    if os.path.lexists(os.path.join(RUNTIME_ROOT, flags.namespace, flags.id)):
        return None
    if _is_mounted(os.path.join(bundle, "rootfs")) or os.path.lexists(_socket_of(bundle)):
        return None
    return _answer(bundle)


def _answer(bundle: str) -> bytes:
    """Returns a DeleteResponse."""
    now = time.time_ns()
    timestamp = wire.write({1: now // 10**9, 2: now % 10**9})
    return wire.write({1: _init_pid(bundle), 2: _KILLED, 3: timestamp})


def _init_pid(bundle: str) -> int:
    """Returns the pid that the container's init had, 0 if it is not known."""
    try:
        return max(0, int(_read(os.path.join(bundle, "init.pid")) or 0))
    except ValueError:
        return 0


def _read(path: str) -> bytes:
    """Reads a file; one that is not there is empty."""
    try:
        with open(path, "rb") as file:
            return file.read(_LONGEST_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return b""


def _is_without_options(bundle: str) -> bool:
    return _read(os.path.join(bundle, "options.json")).strip() in (b"", b"{}")


def _delete_container(flags: Flags, bundle: str, command: int | str) -> None:
    binary, root, systemd_cgroup = "runc", RUNTIME_ROOT, False
    # Without options, which is what most have, nothing has to be imported.
    if not _is_without_options(bundle):
        from shimpy.core.runtime.options import RuntimeOptions

        options = RuntimeOptions.load(bundle)
        binary, root = options.binary_name or binary, options.root or root
        systemd_cgroup = options.systemd_cgroup
    root = os.path.join(root, flags.namespace)
    state = os.path.join(root, flags.id)
    if os.path.basename(binary) in _WITH_DIRECTORIES and not os.path.lexists(state):
        return
    from shimpy.daemon.containerd.command import run

    arguments = [binary, "--root", root, *(["--systemd-cgroup"] if systemd_cgroup else [])]
    timeout = max(_LEAST_TIMEOUT, _TIMEOUT - _age(command))
    status, said = run([*arguments, "delete", "--force", flags.id], timeout=timeout, output=2)
    if status == 0:
        return
    reason = said.decode(errors="replace").strip() or f"exit status {status}"
    if b"does not exist" in said and not os.path.lexists(state):
        return
    raise CommandError(f"{binary} delete: {reason}")


def _age(pid: int | str) -> float:
    """Returns for how many seconds a process has been there, 0 if it has gone."""
    try:
        # The second field, in parentheses, may hold anything; wanted is 22 (proc_pid_stat(5)).
        started = int(_read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19])
    except (IndexError, ProcessLookupError):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def _unmount(rootfs: str) -> None:
    """Unmounts what is at and below the root filesystem, and warns if that fails, as containerd expects."""
    if not _is_mounted(rootfs):
        return
    from shimpy.core.rootfs.unmount import unmount_all
    from shimpy.errors import ShimError

    try:
        unmount_all(rootfs)
    except ShimError as error:
        sys.stderr.write(f"{error}\n")


def _is_mounted(rootfs: str) -> bool:
    """Whether something may be mounted at or below the root filesystem."""
    name = os.path.join(os.path.realpath(os.path.dirname(rootfs)), os.path.basename(rootfs))
    escaped = name.translate({ord(each): f"\\{ord(each):03o}" for each in " \t\n\\"})
    with open("/proc/self/mountinfo", "rb") as file:
        return os.fsencode(f" {escaped}") in file.read()


def _socket_of(bundle: str) -> str:
    """Returns the path of the shim's socket, empty if it is not known."""
    return os.fsdecode(_read(os.path.join(bundle, "address"))).removeprefix("unix://")


def _remove_dead_socket(bundle: str) -> None:
    """Removes the socket of a shim that was killed; that of one with other containers is left alone."""
    path = _socket_of(bundle)
    if os.path.lexists(path):
        from shimpy.daemon.containerd.sockets import remove_dead

        try:
            remove_dead(path)
        except OSError as error:
            sys.stderr.write(f"{path}: {error.strerror}\n")
