"""A program that reads a process's output: containerd's `binary:` logs.

It is given the read ends of two pipes as file descriptors 3 and 4, and says with 5 that it is ready: by a
byte, or by closing it (containerd's core/runtime/v2/README.md, "Logging"). It runs for as long as the
process's record is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any, Final

from shimpy.core.fd_store import FdStore
from shimpy.core.reaper import Child, Reaper
from shimpy.core.stdio.uri import LogProgram
from shimpy.errors import InternalError, InvalidArgumentError, from_oserror

_log = logging.getLogger(__name__)

# Seconds. containerd's own shim waits for ever for a program to be ready.
_READY_WITHIN: Final = 30.0
# What of its input is left, a pipe's 64 kB at most, is read and written in this time.
_END_ALONE_WITHIN: Final = 1.0
_END_WITHIN: Final = 12.0
_DEAD_WITHIN: Final = 2.0

# What the program finds its file descriptors as, above those of its own stdio.
_FIRST: Final = 3
# Above all of them, so that none is in another's place.
_CLEAR: Final = 10


class Logger:
    """A log program that runs and is ready.

    Attributes:
        stdout: the write end of the pipe that it reads as stdout, until `aclose`.
        stderr: the same for its stderr.
    """

    def __init__(self, program: LogProgram) -> None:
        self.stdout = self.stderr = -1
        self._program = program
        self._child: Child | None = None
        self._ended = asyncio.Event()

    @classmethod
    async def start(
        cls,
        program: LogProgram,
        reaper: Reaper,
        *,
        container_id: str,
        namespace: str,
        owner: tuple[int, int] | None = None,
        ready_within: float = _READY_WITHIN,
    ) -> Logger:
        """Starts a program and waits until it is ready.

        Args:
            program: which, and its arguments.
            reaper: waits for its end.
            container_id: CONTAINER_ID in its environment, beside which there is only the next; of an
                exec, its exec id.
            namespace: CONTAINER_NAMESPACE of the program, containerd's.
            owner: the user and group that the pipes are to belong to, for a process in a user namespace
                that opens its /dev/stdout anew.
            ready_within: seconds that it has.

        Raises:
            NotFoundError: there is no such program.
            PermissionDeniedError: it may not be run.
            InternalError: it was not ready in time, or has ended and has not said that it is.
        """
        started = cls(program)
        try:
            environment = {"CONTAINER_ID": container_id, "CONTAINER_NAMESPACE": namespace}
            ready = started._spawn(reaper, environment, owner)
            try:
                await started._wait_ready(ready, ready_within)
            finally:
                os.close(ready)
        except BaseException:
            await started._kill()
            raise
        return started

    def hand_over(self, store: FdStore, key: str) -> dict[str, Any]:
        """See `ProcessIO.hand_over`."""
        store.put(f"log1-{key}", self.stdout)
        store.put(f"log2-{key}", self.stderr)
        known = {"path": self._program.path, "pid": 0}
        if self._child is not None and not self._ended.is_set():
            store.put(f"logger-{key}", self._child.pidfd)
            known["pid"] = self._child.pid
        return known

    @classmethod
    def handed_over(cls, known: Mapping[str, Any], fds: dict[str, int], key: str, reaper: Reaper) -> Logger:
        """Returns a program that another has started, and is a child of this process.

        Args:
            known: as `hand_over` returned it.
            fds: what that has put, by name; its own are taken out.
            key: as for `hand_over`.
            reaper: waits for its end.
        """
        self = cls(LogProgram(str(known["path"]), (), must_say_ready=False))
        self.stdout, self.stderr = fds.pop(f"log1-{key}", -1), fds.pop(f"log2-{key}", -1)
        if known["pid"]:
            pid, pidfd = int(known["pid"]), fds.pop(f"logger-{key}")
            self._child = reaper.watch(pid, pidfd, self._has_ended, is_foreign=False)
        return self

    def take_stdout(self) -> int:
        """Returns the write end of stdout, which is the caller's from now on."""
        fd, self.stdout = self.stdout, -1
        return fd

    def close_outputs(self) -> None:
        """Lets the program see the end of its input, and does nothing else to it. Idempotent."""
        for fd in (self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdout = self.stderr = -1

    async def aclose(self) -> None:
        """Ends the program: idempotent.

        It sees the end of its input, has a second to end by itself, then gets SIGTERM, and SIGKILL after
        twelve. What still holds an output, such as a child of an exec that lives on, keeps that end from
        coming, not the signals.
        """
        self.close_outputs()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_ALONE_WITHIN):
                return await self._wait_ended()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_WITHIN - _END_ALONE_WITHIN):
                return await self._wait_ended()
        _log.warning("log program %s did not end on SIGTERM; it is killed", self._program.path)
        await self._kill()
        return None

    def _spawn(self, reaper: Reaper, environment: dict[str, str], owner: tuple[int, int] | None) -> int:
        """Starts it; returns the read end of the pipe on which it says that it is ready."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            passed = []
            for name in ("stdout", "stderr"):
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                theirs.callback(os.close, read_end)
                setattr(self, name, write_end)  # closed by `_close_outputs`
                passed.append(read_end)
                if owner is not None:
                    os.fchown(write_end, *owner)
            ready, said = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            ours.callback(os.close, ready)
            theirs.callback(os.close, said)
            os.set_blocking(said, True)
            passed.append(said)
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()),
            ]
            for number, fd in enumerate(passed, _FIRST):
                above = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _CLEAR)
                theirs.callback(os.close, above)
                actions.append((os.POSIX_SPAWN_DUP2, above, number))
            # asyncio gives a program the numbers that file descriptors have here, or needs a fork of Python
            # (preexec_fn). This costs the half of a millisecond too, and tells why a program cannot be run.
            with reaper.spawning():
                pid = self._posix_spawn(actions, environment)
                try:
                    self._child = reaper.track(pid, self._has_ended)
                except BaseException:
                    # No file descriptor was left to watch it by.
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    raise
            ours.pop_all()
            return ready

    def _posix_spawn(self, actions: list[tuple[int | str, ...]], environment: dict[str, str]) -> int:
        path = self._program.path
        try:
            return os.posix_spawn(
                path,
                [path, *self._program.arguments],
                environment,
                file_actions=actions,
                setpgroup=0,
                setsigmask=[],
                setsigdef=[
                    number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN
                ],
            )
        except OSError as error:
            raise from_oserror(
                error, f"stdout: cannot run log program {path!r}", default=InvalidArgumentError
            ) from error

    async def _wait_ready(self, ready: int, within: float) -> None:
        loop = asyncio.get_running_loop()
        said: asyncio.Future[bytes] = loop.create_future()

        def read() -> None:
            if not said.done():
                said.set_result(os.read(ready, 1))

        loop.add_reader(ready, read)
        try:
            async with asyncio.timeout(within):
                byte = await said
        except TimeoutError:
            raise InternalError(
                f"log program {self._program.path} was not ready within {within:g} s"
            ) from None
        finally:
            loop.remove_reader(ready)
        if self._program.must_say_ready and not byte:
            raise InternalError(
                f"log program {self._program.path} did not say that it is ready; it has ended, or closed "
                "file descriptor 5 without having written to it"
            )

    async def _wait_ended(self) -> None:
        if self._child is not None:
            await self._ended.wait()

    async def _kill(self) -> None:
        self.close_outputs()
        self._signal(signal.SIGKILL)
        # Not for ever: it may be asleep in the kernel, or the reaper may be closed.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEAD_WITHIN):
                await self._wait_ended()

    def _signal(self, number: int) -> None:
        if self._child is not None:
            self._child.kill(number)

    def _has_ended(self, status: int) -> None:
        if self.stderr >= 0:
            _log.warning("log program %s ended with status %d", self._program.path, status)
        self._ended.set()


def _inheritable() -> Iterator[int]:
    """Yields the file descriptors that a program would inherit beside its stdio: an embedding program's."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        with contextlib.suppress(OSError):  # the listing's own is closed
            if fd > 2 and os.get_inheritable(fd):
                yield fd
