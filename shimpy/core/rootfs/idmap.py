"""Mounts that show other owners: id-mapped mounts (mount_setattr(2))."""

from __future__ import annotations

import os
import re
import signal
from typing import Final

from shimpy.core.rootfs import syscalls
from shimpy.core.rootfs.apart import run_apart
from shimpy.errors import InvalidArgumentError

_ENTRY: Final = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,10})")
_IDS: Final = 1 << 32
_WALL: Final = 0x40000000
# Seconds; it is killed after some microseconds, unless this process is killed before.
_LIFETIME: Final = 10


def user_namespace(uid_map: str, gid_map: str) -> int:
    """Returns a file descriptor of a new user namespace with these id mappings.

    Args:
        uid_map: `container:host:size,…`.
        gid_map: the same for group ids.

    Raises:
        InvalidArgumentError: a mapping is not of that form.
        OSError: the kernel refused.
    """
    maps = {"uid_map": _lines("uidmap", uid_map), "gid_map": _lines("gidmap", gid_map)}
    # In a thread of its own for the signals that it blocks, see start_sleeper.
    return run_apart(lambda: _make(maps), syscalls.CLONE_FS)


def _make(maps: dict[str, str]) -> int:
    pid = syscalls.start_sleeper(syscalls.CLONE_NEWUSER, _LIFETIME)
    try:
        for name, lines in maps.items():
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, lines.encode())  # the kernel takes a mapping in one write only
            finally:
                os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, _WALL)


def _lines(name: str, mapping: str) -> str:
    """Returns a mapping as /proc/PID/uid_map takes it (user_namespaces(7))."""
    lines = []
    for entry in mapping.split(","):
        match = _ENTRY.fullmatch(entry)
        if match is None or max(map(int, match.groups())) >= _IDS:
            raise InvalidArgumentError(
                f"mount options: {name}={mapping}: {entry!r} is not of the form container:host:size"
            )
        lines.append(" ".join(match.groups()))
    return "\n".join(lines) + "\n"
