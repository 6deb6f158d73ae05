"""Mount options as /etc/fstab has them, taken apart for the kernel (mount(8), mount(2))."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shimpy.core.rootfs.syscalls import (
    MS_BIND,
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_MANDLOCK,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SILENT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
)
from shimpy.errors import InvalidArgumentError

_SET: Final = {
    "bind": MS_BIND,
    "dirsync": MS_DIRSYNC,
    "lazytime": MS_LAZYTIME,
    "mand": MS_MANDLOCK,
    "noatime": MS_NOATIME,
    "nodev": MS_NODEV,
    "nodiratime": MS_NODIRATIME,
    "noexec": MS_NOEXEC,
    "nosuid": MS_NOSUID,
    "nosymfollow": MS_NOSYMFOLLOW,
    "rbind": MS_BIND | MS_REC,
    "relatime": MS_RELATIME,
    "remount": MS_REMOUNT,
    "ro": MS_RDONLY,
    "silent": MS_SILENT,
    "strictatime": MS_STRICTATIME,
    "sync": MS_SYNCHRONOUS,
}
_CLEAR: Final = {
    "async": MS_SYNCHRONOUS,
    "atime": MS_NOATIME,
    "defaults": 0,
    "dev": MS_NODEV,
    "diratime": MS_NODIRATIME,
    "exec": MS_NOEXEC,
    "loud": MS_SILENT,
    "nolazytime": MS_LAZYTIME,
    "nomand": MS_MANDLOCK,
    "norelatime": MS_RELATIME,
    "nostrictatime": MS_STRICTATIME,
    "rw": MS_RDONLY,
    "suid": MS_NOSUID,
    "symfollow": MS_NOSYMFOLLOW,
}
_PROPAGATION: Final = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}
# What containerd's mount manager is to act on before a shim sees the mount.
_INTERNAL: Final = "X-containerd."


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What the options of one mount ask for.

    Attributes:
        flags: MS_ flags to be set.
        cleared: MS_ flags that were asked not to be set.
        propagation: an MS_ flag of its own call, with MS_REC or not; 0 for none.
        data: the filesystem's own options.
        loop: the source is a file to be put behind a loop device.
        direct_io: that device goes past the page cache.
        uid_map: user ids to be mapped, as `container:host:size,…`; empty for none.
        gid_map: the same for group ids; empty if and only if `uid_map` is.
    """

    flags: int = 0
    cleared: int = 0
    propagation: int = 0
    data: tuple[str, ...] = ()
    loop: bool = False
    direct_io: bool = False
    uid_map: str = ""
    gid_map: str = ""


def parse_options(options: Iterable[str]) -> MountOptions:
    """Takes mount options apart; a later one goes before an earlier one.

    Args:
        options: one each; one that is not known is the filesystem's.

    Raises:
        InvalidArgumentError: one is for containerd alone, or only half of the id mappings is there.
    """
    flags = cleared = propagation = 0
    loop = False
    maps = {"uidmap": "", "gidmap": ""}
    data = []
    for option in options:
        name, has_value, value = option.partition("=")
        refuse_internal(option)
        if option in _SET:
            flags |= _SET[option]
            cleared &= ~_SET[option]
        elif option in _CLEAR:
            flags &= ~_CLEAR[option]
            cleared |= _CLEAR[option]
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option == "loop":
            loop = True
        elif name in maps and has_value:
            maps[name] = value
        else:
            data.append(option)
    direct_io = loop and "direct-io" in data
    if direct_io:
        data = [option for option in data if option != "direct-io"]
    uid_map, gid_map = maps.values()
    if bool(uid_map) != bool(gid_map):
        missing = "gidmap" if uid_map else "uidmap"
        raise InvalidArgumentError(f"mount options: {missing}= is missing; ids are mapped both or not at all")
    return MountOptions(flags, cleared, propagation, tuple(data), loop, direct_io, uid_map, gid_map)


def refuse_internal(option: str) -> None:
    """Raises InvalidArgumentError for an option that containerd should have acted on itself."""
    if option.startswith(_INTERNAL):
        raise InvalidArgumentError(
            f"mount options: {option!r} is for containerd's mount manager, which has not acted on it"
        )
