"""A cgroup and all below it, as one thing that can be killed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from signal import SIGKILL
from typing import ClassVar, Self

from shimpy.core.cgroup.hierarchies import Hierarchies, MountPoint, StrPath, listed
from shimpy.core.cgroup.walk import remove_below, walk
from shimpy.errors import InternalError

_log = logging.getLogger(__name__)

_BATCH = 128  # processes signalled, or cgroups looked at, before others get the event loop
_HELD = 64  # pidfds kept to await; when those are gone, the rest is looked at again
_SWEEPS = 100  # of one strike; a tree that cannot be frozen may outrun it, the next goes on
_BACKOFF = (0.01, 1.0)  # seconds, growing from one to the other, until the next round of signals
_IF_NONE_LIVES = 10  # that is so many times shorter, since it will find nothing


class Tree:
    """A cgroup and all cgroups below it; this class itself for a hierarchy that cannot freeze.

    What is killed here is whatever the kernel lists as a member, so double forks, new sessions and
    an init that has died make no difference: only the writer of another cgroup's cgroup.procs
    leaves. That is root with a writable cgroup mount (a privileged container with one can move a
    process out of its exec's cgroup, with the host's mount also out of the container's) and who
    has been asked to from outside.

    Args:
        path: the directory of the cgroup.
        escape_cgroup: a cgroup of the same hierarchy that is never frozen, ours (version 1 only).
        runtime_args: see the attribute.
        mounts: the cgroup mounts among which the path was found; None: those that there are when it matters.

    Attributes:
        path: the directory of the cgroup.
        runtime_args: what the runtime's `exec` needs to start a process in this cgroup; empty
            for the container's own.
    """

    # What `runc exec --cgroup` wants before the name; None where there are no cgroups for execs.
    _prefix: ClassVar[str | None] = None

    def __init__(
        self,
        path: StrPath,
        *,
        escape_cgroup: StrPath | None = None,
        runtime_args: Iterable[str] = (),
        mounts: Sequence[MountPoint] | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.runtime_args = list(runtime_args)
        self._escape_cgroup = escape_cgroup
        self._mounts = mounts

    def pids(self) -> list[int]:
        """Returns all processes in the tree that are not zombies."""
        return [pid for cgroup in walk(self.path) for pid in listed(cgroup)]

    def populated(self) -> bool:
        """Returns whether there is any process in the tree that is not a zombie."""
        return any(map(listed, walk(self.path)))

    def signal(self, signum: int) -> None:
        """Sends a signal to all that is in the tree now.

        Args:
            signum: the number of the signal.

        Raises:
            InternalError: this process is in the tree itself.
        """
        self._check_without_us()
        signalled: list[int] = []
        try:
            for cgroup in walk(self.path):
                self._signal(listed(cgroup), cgroup, signalled, signum)
        finally:
            for pidfd in signalled:
                os.close(pidfd)

    def frozen(self) -> bool:
        """Returns whether the tree is frozen, or about to be."""
        return False

    def thaw(self) -> bool:
        """Lets everything in the tree go on that was frozen with it, and that nothing above it holds.

        Returns:
            False where the kernel refused; that is logged.
        """
        try:
            self._thaw()
        except OSError as error:
            _log.warning("cannot thaw %s: %s", self.path, error)
            return False
        return True

    def remove(self) -> bool:
        """Removes the cgroup, unless anything runs in it or another cgroup is below it.

        Returns:
            Whether it is gone; also when it was before.
        """
        with suppress(OSError):
            os.rmdir(self.path)
        return not os.path.lexists(self.path)

    async def prune(self) -> None:
        """Removes the cgroups below, as far as nothing runs in them; a container may have made any number."""
        try:
            for number, _ in enumerate(remove_below(self.path), 1):
                if number % _BATCH == 0:
                    await asyncio.sleep(0)
        except OSError as error:
            _log.warning("cannot remove what is below %s: %s", self.path, error)

    def child(self, name: str) -> Self | None:
        """Makes a cgroup below this one, for one exec'd process and all that it will start.

        Returns:
            Its tree, to be removed by the caller; None where none can be made (a read-only mount,
            a limit on cgroups, a container that has gone). A process that is then started without
            shares the container's, and what it leaves behind when it exits cannot be told from
            other processes of the container: it is killed with the container.
        """
        if self._prefix is None:
            return None
        arguments = ["--cgroup", self._prefix + name]
        tree = self.known_child(self._file(name))
        tree.runtime_args = arguments
        try:
            tree._make()
        except OSError as error:
            _log.debug("no cgroup of its own for %s: %s", name, error)
            return None
        if not tree._usable():
            tree.remove()
            return None
        return tree

    def known_child(self, path: str) -> Self:
        """Returns the tree of a cgroup below this one that is there already."""
        return type(self)(path, escape_cgroup=self._escape_cgroup, mounts=self._mounts)

    async def kill(self) -> None:
        """Sends SIGKILL to all that is in the tree and returns once all of it has left.

        That is just before it can be waited for: files are closed and memory is given back, the
        exit status follows.

        Frozen processes die too, whether the tree itself is frozen or one that it is part of; in
        the latter case (the exec of a paused container) the rest stays frozen. The tree itself is
        thawed. A process in an uninterruptible sleep is waited for, at no cost to speak of: a
        caller that will not wait so long sets a timeout, and cancelling leaves nothing behind.

        Raises:
            InternalError: the kernel refused, or this process is in the tree itself.
        """
        try:
            self._check_without_us()  # before the tree is frozen: that would be the end of us
            await self._kill()
        except OSError as error:
            raise InternalError(f"cannot kill the processes in {self.path}: {error}") from error

    async def _kill(self) -> None:
        pause, longest = _BACKOFF
        while True:
            dying: list[int] = []
            try:
                if not await self._signal_all(dying):
                    return
                await self._wait_empty(dying, pause)
            finally:
                for pidfd in dying:
                    os.close(pidfd)
            pause = min(2 * pause, longest)

    async def _signal_all(self, dying: list[int]) -> bool:
        """Signals every process once; freezing keeps a fork bomb from outrunning it.

        Nothing escapes between being listed and being signalled: a fork that is under way when
        its parent is sent SIGKILL fails, or its child has been listed before the parent is gone.

        Returns:
            False if it is certain that there was nothing to kill.
        """
        struck: set[int] = set()
        self._freeze()
        try:
            stopped = self._stopped()  # asked first: nothing that moves can be left out after
            for _ in range(_SWEEPS):
                if not await self._sweep(struck, dying):
                    break
        finally:
            self._thaw()
        await self._release(struck)
        return bool(struck) or not stopped

    async def _sweep(self, struck: set[int], dying: list[int]) -> bool:
        """Signals those that have not been struck yet; says whether there were any."""
        known = len(struck)
        for number, cgroup in enumerate(walk(self.path)):
            fresh = [pid for pid in listed(cgroup) if pid not in struck]
            for start in range(0, len(fresh), _BATCH):
                batch = fresh[start : start + _BATCH]
                self._signal(batch, cgroup, dying)
                struck.update(batch)
                await asyncio.sleep(0)
            if number:
                self._thaw_below(cgroup)
            if number % _BATCH == 0:
                await asyncio.sleep(0)
        return len(struck) > known

    def _signal(self, pids: list[int], cgroup: int, dying: list[int], signum: int = SIGKILL) -> None:
        opened: dict[int, int] = {}
        try:
            for pid in pids:
                with suppress(ProcessLookupError):
                    opened[pid] = os.pidfd_open(pid)
            # A pid that is listed now, after its pidfd was opened, is that of the pidfd's process
            # unless that one is dead: one that took the pid over cannot be hit.
            for pid in opened.keys() & set(listed(cgroup)):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(opened[pid], signum)
                if len(dying) < _HELD:
                    dying.append(opened.pop(pid))
        finally:
            for pidfd in opened.values():
                os.close(pidfd)

    def _check_without_us(self) -> None:
        if Hierarchies(known=self._mounts).show_us_below(self.path):
            raise InternalError(f"refusing to kill in {self.path}: shimpy itself runs there")

    async def _wait_empty(self, dying: list[int], seconds: float) -> None:
        """Waits until all those have died, at most for so long.

        Why not longer: version 1 does not report that the tree was frozen in the meantime (a Pause at
        the same time), which keeps what has been sent SIGKILL from dying.
        """
        alive = set(dying)
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def died(pidfd: int) -> None:
            loop.remove_reader(pidfd)
            alive.discard(pidfd)
            if not alive and not done.done():
                done.set_result(None)

        for pidfd in dying:
            loop.add_reader(pidfd, died, pidfd)  # readable once it is a zombie: pidfd_open(2)
        try:
            async with asyncio.timeout(seconds if dying else seconds / _IF_NONE_LIVES):
                await done
        except TimeoutError:
            pass
        finally:
            for pidfd in alive:
                loop.remove_reader(pidfd)

    def _make(self) -> None:
        try:
            os.mkdir(self.path)
        except FileExistsError:
            self.remove()  # of a shim that was killed
            os.mkdir(self.path)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _freeze(self) -> None:
        """Begins to stop all processes of the tree."""

    def _stopped(self) -> bool:
        """Returns whether none of them can be on its way from one cgroup of the tree to another."""
        return True

    def _thaw(self) -> None:
        """Lets them go on."""

    def _thaw_below(self, cgroup: int) -> None:
        """Undoes what froze a cgroup below on its own; as long as the tree is frozen, so is that."""

    async def _release(self, struck: set[int]) -> None:
        """Lets those die that a freezer outside the tree holds."""

    def _usable(self) -> bool:
        """Returns whether processes can be put into this cgroup, which has just been made."""
        return True
