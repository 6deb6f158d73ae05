"""Goes through a cgroup and all below it, however deep, while processes in there change it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from shimpy.core.cgroup.hierarchies import StrPath

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# The links of a directory without any below it: its name and its own ".". Cgroups count the ".." of those
# below, and a file system that does not has one link for each. To ask is a seventh of the calls of a look.
_LEAF = 2


def walk(directory: StrPath) -> Iterator[int]:
    """Yields a file descriptor of a cgroup and of each one below it, a parent before its children.

    A container that can write to its cgroup mount nests cgroups deeper than the longest path that
    the kernel takes (PATH_MAX), and deeper than a process may have descriptors. So each is opened
    by its name in the one above it, and two file descriptors are open at a time, at the most.

    Each file descriptor is closed when the next one is asked for. What is created during the walk may be
    left out, what is removed is.

    Args:
        directory: the cgroup; nothing is yielded if it is not there.

    Raises:
        OSError: a cgroup cannot be read, for want of file descriptors for instance.
    """
    return _walk(directory, _nothing)


def remove_below(directory: StrPath) -> Iterator[None]:
    """Removes all cgroups below a cgroup in which there is nothing, the deepest first.

    Yields after each, so that the caller can let others have the event loop.

    Args:
        directory: the cgroup, which stays.

    Raises:
        OSError: a cgroup cannot be read, for want of file descriptors for instance.
    """
    with suppress(FileNotFoundError):
        if os.stat(directory).st_nlink == _LEAF:
            return
    for _ in _walk(directory, _remove):
        yield


def _walk(directory: StrPath, leave: Callable[[str, int], None]) -> Iterator[int]:
    try:
        here = os.open(directory, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        yield here
        names: list[str] = []  # from the directory to where we are
        unseen = [_children(here)]  # of each of these, and of the directory
        while unseen:
            if unseen[-1]:
                name = unseen[-1].pop()
                try:
                    here = _move(here, name)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                names.append(name)
                yield here
                unseen.append(_children(here))
            else:
                unseen.pop()
                if names:
                    # A cgroup cannot be moved to another parent, and a removed one still has its own.
                    here = _move(here, "..")
                    leave(names.pop(), here)
    finally:
        os.close(here)


def _move(here: int, name: str) -> int:
    there = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
    os.close(here)
    return there


def _children(cgroup: int) -> list[str]:
    if os.fstat(cgroup).st_nlink == _LEAF:
        return []
    try:
        with os.scandir(cgroup) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _nothing(_name: str, _parent: int) -> None:
    """Leaves a cgroup as it is."""


def _remove(name: str, parent: int) -> None:
    with suppress(OSError):  # it is in use, or gone
        os.rmdir(name, dir_fd=parent)
