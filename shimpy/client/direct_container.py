"""A container that is reached through the kernel alone: its program has no socket to be asked at."""

from __future__ import annotations

import asyncio
import os
import select
import signal as signals
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from shimpy.client.arguments import check_signal
from shimpy.client.files.container_files import ContainerFiles
from shimpy.client.model import ContainerState, ProcessInfo, ProcessState
from shimpy.client.stats import read_stats
from shimpy.core.cgroup import Cgroup
from shimpy.core.cgroup.paths import hold
from shimpy.core.cgroup.stats import StatsReader
from shimpy.core.registry import ProcessIdentity
from shimpy.errors import FailedPreconditionError, from_oserror

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimpy.client.model import Stats
    from shimpy.client.shim_calls import ShimCalls
    from shimpy.core.registry import OwnedContainer


class DirectContainer(ContainerFiles):
    """A container of this user, whose owner notices what is done to it as it would any end of init.

    It has its state, files, processes, statistics, signals and end, and nothing else of `ContainerControl`.

    Args:
        record: what its owner has written down of it.
        pidfd: of its init, which stays the caller's.
    """

    def __init__(self, record: OwnedContainer, pidfd: int) -> None:
        self.id = record.id
        self.pid = record.pid
        self._bundle = record.bundle
        self._pidfd = pidfd
        # Of a shim copies ask for nothing but the state.
        self._client = cast("ShimCalls", self)

    async def state(self) -> ContainerState:
        state = ProcessState.STOPPED if self._has_ended() else ProcessState.RUNNING
        return ContainerState(self.id, self._bundle, self.pid, (ProcessInfo(self.pid, state),))

    async def wait(self) -> int:
        """Waits for init to end.

        Returns:
            0: how it has ended is for its owner to know.
        """
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
        return 0

    async def kill(self, signal: int = signals.SIGKILL, *, everything: bool = False) -> None:
        number = check_signal(signal)
        cgroup = self._cgroup()
        try:
            signals.pidfd_send_signal(self._pidfd, number)
        except OSError as error:
            raise from_oserror(error, f"container {self.id} cannot be signalled") from error
        if everything:
            cgroup.signal(number)
        if number == signals.SIGKILL and cgroup.frozen():
            # A process that version 1 has frozen does not see it.
            cgroup.thaw()

    async def stats(self) -> Stats:
        from shimpy.services.task.encoding import encode_metrics

        try:
            reader = StatsReader.of(self.pid)
        finally:
            self._check()
        return read_stats(encode_metrics(reader.read()))

    async def pids(self) -> list[int]:
        cgroup = self._cgroup()
        if not cgroup.killable:
            raise FailedPreconditionError(
                f"container {self.id} has no cgroup of its own that tells what is in it"
            )
        return cgroup.pids()

    def _cgroup(self) -> Cgroup:
        cgroup = Cgroup.of(self.pid)
        self._check()
        return cgroup

    def _check(self) -> None:
        """Makes sure, after something was looked up by init's pid, that it was still init's."""
        if self._has_ended():
            raise FailedPreconditionError(f"container {self.id} has ended")

    def _has_ended(self) -> bool:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(0))


@contextmanager
def direct_container(record: OwnedContainer) -> Iterator[DirectContainer]:
    """Gives a container for the time of the block.

    Args:
        record: what its owner has written down of it.

    Raises:
        FailedPreconditionError: its init has ended, or is not in the cgroup that was made for it.
    """
    pidfd = ProcessIdentity(record.pid, record.birth).open()
    if pidfd is None:
        raise FailedPreconditionError(f"container {record.id} has ended")
    try:
        if not hold(record.cgroups, record.pid):
            raise FailedPreconditionError(
                f"process {record.pid} is not in the cgroup of container {record.id}, which ends"
            )
        yield DirectContainer(record, pidfd)
    finally:
        os.close(pidfd)
