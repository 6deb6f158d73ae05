"""Tells of the kernel's OOM killer, once for each process that it killed in a container."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress

from shimpy.core.cgroup.hierarchies import StrPath, read, write
from shimpy.core.cgroup.kernfs import FileWatch, flat
from shimpy.core.cgroup.walk import walk

# A container may make cgroups below its own without end. In more than this the killer's work is
# not looked for, so that no reading takes longer than some 30 ms.
_MOST = 1000

# Of the time, readings after an event take one part in so many.
_SHARE = 20

# The container's own cgroup among the counts of those below it, which go by their inode numbers.
_OWN = 0

# Seconds from one reading of the counter to the next after version 1 has told of an OOM, 8 s in
# all: see OomControlWatch.
_AGAIN = tuple(0.001 * 2**step for step in range(13))


class OomWatch:
    """A watch over one container. The base class is the no-op used when nothing can be watched.

    It counts `oom_kill`, the processes that the killer has killed: not `oom`, the times that a
    limit was reached (which may have ended in an error for who asked for memory), nor
    `oom_group_kill`: with memory.oom.group set, each process of the group counts (and the first
    victim twice: the kernel, Linux 6.1 at least, kills and counts it again with its group).

    The kernel counts a kill before it sends the SIGKILL. So a caller of `poll` after a process
    was seen to be dead and before telling anyone has told of the OOM first, always.

    Args:
        callback: called in the event loop with the number of kills not yet reported.
    """

    def __init__(self, callback: Callable[[int], None]) -> None:
        self._callback = callback
        self._closed = False

    def poll(self) -> None:
        """Reads the counter now and reports what is new; does nothing once closed."""
        if not self._closed and (new := self._new()) > 0:
            self._callback(new)

    def close(self) -> None:
        """Ends the watch; nothing is reported any more. Idempotent."""
        self._closed = True

    @property
    def seen(self) -> dict[str, int]:
        """What has been reported, by the inode number of a cgroup below, "0" for the container's own."""
        return {}

    def _new(self) -> int:
        return 0


class EventsWatch(OomWatch):
    """Watches version 2: memory.events, which counts the cgroups below too.

    (Not so with the mount option memory_localevents: there only what happens in the container's
    own cgroup counts.)

    Args:
        directory: the container's cgroup.
        callback: as OomWatch has it.
        seen: as `Cgroup.watch_oom` has it.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """

    def __init__(
        self, directory: StrPath, callback: Callable[[int], None], seen: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(callback)
        self._file = FileWatch(os.path.join(directory, "memory.events"), self.poll)
        self._seen = self._count() if seen is None else seen.get(str(_OWN), 0)

    @property
    def seen(self) -> dict[str, int]:
        """See `OomWatch.seen`."""
        return {str(_OWN): self._seen}

    def close(self) -> None:
        """Ends the watch; nothing is reported any more. Idempotent."""
        super().close()
        self._file.close()

    def _count(self) -> int:
        return flat(self._file.read()).get("oom_kill", 0)

    def _new(self) -> int:
        count = self._count()
        new, self._seen = count - self._seen, max(count, self._seen)
        return new


class OomControlWatch(OomWatch):
    """Watches version 1: memory.oom_control (Documentation/admin-guide/cgroup-v1/memory.rst).

    Its eventfd fires when the limit is reached, some milliseconds before the kernel has chosen
    whom to kill and counted it, and nothing tells of the latter. A kill that ends a process that
    is waited for is reported by the waiter's `poll`; for the others (a grandchild) the counter
    is read again at growing distances for 8 s after each event. That is no more than 13 readings,
    and a container that hits its limit without end costs no more than one event each millisecond.

    A kill because the whole machine is out of memory, or one by a limit that the container has
    set for a cgroup below its own, fires no event here: it is counted, and reported at the next
    `poll`. Removal fires one too; there is nothing left to count then. While there are more than
    1,000 cgroups below, the kills in these are not counted.

    Args:
        directory: the container's cgroup.
        callback: as OomWatch has it.
        seen: as `Cgroup.watch_oom` has it.

    Raises:
        OSError: there is no such cgroup, or it refuses to be watched.
    """

    def __init__(
        self, directory: StrPath, callback: Callable[[int], None], seen: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(callback)
        self._directory = os.fspath(directory)
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.TimerHandle | None = None
        # Held open, so that a process that is out of file descriptors still reports its OOM kills.
        self._control = os.open(os.path.join(directory, "memory.oom_control"), os.O_RDONLY | os.O_CLOEXEC)
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._register()
        except OSError:
            os.close(self._control)
            os.close(self._eventfd)
            raise
        self._seen: dict[int, int] = {}
        if seen is None:
            self._new()
        else:
            self._seen = {int(key): count for key, count in seen.items()}
        self._loop.add_reader(self._eventfd, self._fired)

    @property
    def seen(self) -> dict[str, int]:
        """See `OomWatch.seen`."""
        return {str(key): count for key, count in self._seen.items()}

    def close(self) -> None:
        """Ends the watch; nothing is reported any more. Idempotent."""
        if self._closed:
            return
        super().close()
        if self._reading:
            self._reading.cancel()
        self._loop.remove_reader(self._eventfd)
        os.close(self._eventfd)  # unregisters it
        os.close(self._control)

    def _register(self) -> None:
        request = f"{self._eventfd} {self._control}"
        if not write(os.path.join(self._directory, "cgroup.event_control"), request):
            raise FileNotFoundError(f"{self._directory} has no cgroup.event_control")

    def _fired(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)
        self._loop.remove_reader(self._eventfd)  # until the first reading: that bounds the cost
        if self._reading:
            self._reading.cancel()
        self._read_again(0)

    def _read_again(self, step: int) -> None:
        self._reading = None
        begun = self._loop.time()
        self.poll()
        rest = _SHARE * (self._loop.time() - begun)
        if self._closed or not os.path.exists(self._directory):
            return
        if step == 1:
            self._loop.add_reader(self._eventfd, self._fired)
        if step < len(_AGAIN):
            self._reading = self._loop.call_later(max(rest, _AGAIN[step]), self._read_again, step + 1)

    def _new(self) -> int:
        # A kill is counted in the cgroup where the process was, and not in those above it.
        below = self._below()
        if below is None:
            below = {key: count for key, count in self._seen.items() if key != _OWN}
        counts = below | {_OWN: _oom_kill(_pread(self._control))}
        new = sum(max(0, count - self._seen.get(key, 0)) for key, count in counts.items())
        self._seen = counts
        return new

    def _below(self) -> dict[int, int] | None:
        """Returns the counts of the cgroups below; None if there are too many, or they cannot be read."""
        counts: dict[int, int] = {}
        try:
            for number, cgroup in enumerate(walk(self._directory)):
                status = os.fstat(cgroup)
                if not number and status.st_nlink == 2:
                    break  # there is none
                if number + status.st_nlink - 2 > _MOST:  # with those that it has below itself
                    return None
                if number:
                    # By its inode number: one that was made anew under a name counts from 0 again.
                    counts[status.st_ino] = _oom_kill(read("memory.oom_control", dir_fd=cgroup))
        except OSError:
            return None
        return counts


def _oom_kill(text: str) -> int:
    return flat(text).get("oom_kill", 0)


def _pread(file: int) -> str:
    try:
        return os.pread(file, 4096, 0).decode()
    except OSError:  # the cgroup has been removed
        return ""
