"""Ranges of user ids that one container has alone: who has which, on the whole machine.

A range is claimed by a file in a directory of root's, which is named for its first id and says where the
bundle is that has it. It is held as long as its maker holds the file locked (flock(2)) or that bundle is
there, so that neither a maker that is killed nor a bundle that is removed by hand keeps it for good.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from shimpy.errors import ResourceExhaustedError, from_oserror

# What systemd's list of the uses of user ids leaves free (UIDS-GIDS.md), from this up to its foreign ids.
_FIRST: Final = 0x78000000
_END: Final = 0x7FFE0000

# How many ids a range has: those of 16 bits, which is what programs expect.
SIZE: Final = 65536

_DIRECTORY: Final = "/var/lib/shimpy/ids"

_NAME: Final = re.compile("[0-9a-f]{8}")

# Bytes of the path of a bundle.
_LONGEST: Final = 4096


class IdRange:
    """A range of ids that is claimed for a bundle.

    Args:
        start: the first of its SIZE ids.
        fd: the file that says so, locked.
    """

    def __init__(self, start: int, fd: int) -> None:
        self.start = start
        self._fd = fd

    @property
    def mapping(self) -> list[dict[str, int]]:
        """The runtime-spec's uidMappings, or gidMappings."""
        return [{"containerID": 0, "hostID": self.start, "size": SIZE}]

    def keep(self) -> None:
        """Leaves it to the bundle, for as long as that is there."""
        os.close(self._fd)
        self._fd = -1

    def release(self) -> None:
        """Gives it back. Idempotent."""
        if self._fd >= 0:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(_DIRECTORY, _name(self.start)))
            self.keep()


def claim(bundle: str) -> IdRange:
    """Claims a range that nobody has.

    Args:
        bundle: the absolute path of the config.json that is going to have it.

    Raises:
        ResourceExhaustedError: every range is in use.
        ShimError: who has which cannot be written down.
    """
    try:
        directory = _open_directory()
    except OSError as error:
        raise from_oserror(error, f"userns: {_DIRECTORY} cannot be used") from error
    try:
        taken = [*_allotted("/etc/subuid"), *_allotted("/etc/subgid")]
        count = (_END - _FIRST) // SIZE
        # Not the first that is free: what a container left on a disk is not to be the next one's.
        begin = secrets.randbelow(count)
        for number in range(count):
            start = _FIRST + (begin + number) % count * SIZE
            if any(low < start + SIZE and start < high for low, high in taken):
                continue
            fd = _take(directory, start, bundle)
            if fd is not None:
                return IdRange(start, fd)
    except OSError as error:
        raise from_oserror(error, f"userns: no range of ids can be claimed in {_DIRECTORY}") from error
    finally:
        os.close(directory)
    raise ResourceExhaustedError(
        f"userns: all {count} ranges of ids are in use; remove bundles, or see `shimpy ps` and `shimpy prune`"
    )


def remove_abandoned(gone: str = "") -> None:
    """Gives back the ranges whose bundles have gone; `claim` takes them also without that.

    Args:
        gone: a directory that is not there any more. Who still has locked a range of a bundle that was in it
            is only looking whether that is abandoned, and is waited for.
    """
    with suppress(OSError):
        directory = _open_directory()
        try:
            for name in filter(_NAME.fullmatch, os.listdir(directory)):
                fd = _take(directory, int(name, 16), "", gone)
                if fd is not None:
                    os.unlink(name, dir_fd=directory)
                    os.close(fd)
        finally:
            os.close(directory)


def _take(directory: int, start: int, bundle: str, gone: str = "") -> int | None:
    """Takes one range and returns its file, locked; None if another has it.

    Args:
        directory: of all ranges.
        start: the range's first id.
        bundle: who is to have it.
        gone: see `remove_abandoned`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(_name(start), flags, 0o600, dir_fd=directory)
    try:
        waits = gone and os.pread(fd, _LONGEST, 0).startswith(os.fsencode(f"{gone}/"))
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        held = os.pread(fd, _LONGEST, 0)
        # Without a name it has just been given back, and the name may be another file's by now.
        if os.fstat(fd).st_nlink and not (held and os.path.lexists(held)):
            os.ftruncate(fd, 0)
            os.pwrite(fd, os.fsencode(bundle), 0)
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _open_directory() -> int:
    os.makedirs(_DIRECTORY, 0o700, exist_ok=True)
    fd = os.open(_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(fd)
        raise PermissionError(13, "it must belong to root and have mode 0700")
    return fd


def _name(start: int) -> str:
    return f"{start:08x}"


def _allotted(path: str) -> Iterator[tuple[int, int]]:
    """Yields what is allotted to users, from an id up to another (subuid(5))."""
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.strip().split(":")
            if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
                yield int(fields[1]), int(fields[1]) + int(fields[2])
