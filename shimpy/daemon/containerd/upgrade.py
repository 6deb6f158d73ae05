"""SIGHUP: the shim's process becomes the program that is installed now, and goes on with what it has.

execve(2) keeps the process, and with it the children, whose exits wait to be told, and the file descriptors
that are not close-on-exec: containerd's connections, terminals, pipes and FIFOs. What only memory holds goes
along as `handover` has it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from shimpy.core import tempdirs
from shimpy.core.container.handover import hand_over, under_way
from shimpy.core.fd_store import FdTable
from shimpy.core.recovery.handed_over import take_up_handed_over
from shimpy.core.supervisor import Supervisor
from shimpy.daemon.containerd.handover import HandedOver, new_state
from shimpy.daemon.containerd.program import VARIABLE
from shimpy.daemon.containerd.serve import SIGNALS, Daemon
from shimpy.errors import FailedPreconditionError, ShimError
from shimpy.services.task.publisher import Publisher
from shimpy.services.task.service import TaskService

# Seconds: for a moment to come at which nothing is under way; that nothing is read while the calls end that
# came just then, of the two that containerd gives some; for all of it; for the new program to be checked.
_CALM: Final = 1.0
_PAUSE: Final = 0.5
_CALLS_TIMEOUT: Final = 30.0
_CHECK: Final = 30.0

# Seconds between looks whether a client has read its answers.
_LOOK: Final = 0.002

# Bytes of what the new program says.
_SAID: Final = 1 << 16

_log = logging.getLogger(__name__)


class Upgrade:
    """Has a shim's process become the program that is installed, at each SIGHUP.

    A program that cannot go on is not become: it is asked first, and the log says what is the matter. So it
    does of what cannot be kept.

    Args:
        command: the program, and its arguments before the action.
        daemon: the shim.
        supervisor: has its containers.
        publisher: what it tells containerd.
        fixed: what it was started with, for the next one.
    """

    def __init__(
        self,
        command: Sequence[str],
        daemon: Daemon[TaskService],
        supervisor: Supervisor,
        publisher: Publisher,
        fixed: Mapping[str, Any],
    ) -> None:
        self._command = list(command)
        self._daemon = daemon
        self._supervisor = supervisor
        self._publisher = publisher
        self._fixed = fixed
        self._listener: socket.socket | None = None

    async def run(self) -> None:
        """Becomes the program, and returns only if it does not."""
        try:
            await self._settle()
            try:
                handed_over, _ = self._write()
            finally:
                await self._resume()
            program = await self._check(handed_over)
            await self._settle()
            try:
                self._become(program)
            finally:
                await self._resume()
        except (ShimError, OSError) as error:
            _log.error("the shim goes on as it is, and is not upgraded: %s", error)
        except Exception:  # noqa: BLE001 - whatever it is, the shim goes on
            _log.exception("the shim goes on as it is, and is not upgraded")

    async def _settle(self) -> None:
        """Returns when nothing is under way, with nothing being read.

        Raises:
            FailedPreconditionError: there was no such moment.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + _CALLS_TIMEOUT
        while True:
            # Some calls take long, or one follows the other: meanwhile all are served.
            await self._wait_idle(loop.time() + _CALM)
            self._publisher.pause()
            self._listener = await self._daemon.server.pause()
            if await self._wait_idle(loop.time() + _PAUSE):
                return
            names = sorted(set(self._daemon.server.under_way.values()))
            await self._resume()
            if loop.time() > end:
                what = ", ".join(names) or "what is being done"
                raise FailedPreconditionError(f"{what} did not end for {_CALLS_TIMEOUT:g} s")

    async def _wait_idle(self, end: float) -> bool:
        """Waits until nothing is under way; returns False if it is time before that."""
        loop = asyncio.get_running_loop()
        while True:
            busy: set[asyncio.Task[Any]] = {
                *self._daemon.server.under_way,
                *self._daemon.service.containers.under_way,
                *under_way(self._supervisor),
                *self._publisher.under_way,
            }
            if not busy and not self._daemon.server.has_unsent:
                return True
            left = end - loop.time()
            if left <= 0:
                return False
            if busy:
                await asyncio.wait(busy, timeout=left)
            else:
                await asyncio.sleep(_LOOK)

    async def _resume(self) -> None:
        """Has clients be served again. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await self._daemon.server.resume(listener)
            self._publisher.resume()

    def _write(self) -> tuple[bytes, FdTable]:
        """Writes down all that there is, and which file descriptors.

        Raises:
            FailedPreconditionError: some of it cannot be kept.
            OSError: the kernel refused.
        """
        store = FdTable()
        place = self._daemon.place
        state = new_state(place.path)
        hand_over(self._supervisor, store, state)
        if self._listener is not None:
            store.put("listen", self._listener.fileno())
        connections = []
        for number, (fd, known) in enumerate(self._daemon.server.hand_over()):
            store.put(f"connection-{number}", fd)
            connections.append(known)
        shim = {
            **self._fixed,
            "fds": store.fds,
            "identity": place.identity,
            "expected": self._daemon.expected,
            "records": self._daemon.service.containers.hand_over(),
            "events": self._publisher.hand_over(),
            "connections": connections,
        }
        return HandedOver(state, shim).encode(), store

    async def _check(self, handed_over: bytes) -> list[str]:
        """Asks the new program whether it can go on with this.

        Returns:
            The command line by which it can. That by which it is asked may begin with a shell, which would
            reap the children of this process.

        Raises:
            FailedPreconditionError: it cannot.
            OSError: it cannot be run.
        """
        reaper = self._supervisor.reaper
        with ExitStack() as stack:
            stack.callback(os.close, given := _file(handed_over))
            stack.callback(os.close, answer := _file(b""))
            stack.callback(os.close, said := _file(b""))
            command = reaper.spawn(
                *self._command, "check", cwd="/", stdin=given, stdout=answer, stderr=said, process_group=0
            )
            try:
                code = await asyncio.wait_for(reaper.wait(command), _CHECK)
            except TimeoutError:
                raise FailedPreconditionError(
                    f"{self._command[0]} did not say within {_CHECK:g} s whether it can go on"
                ) from None
            finally:
                if command.returncode is None:
                    await reaper.kill(command)
            words = os.pread(said, _SAID, 0).decode(errors="replace").strip().splitlines()
            if code != 0:
                why = words[-1] if words else f"it ended with {code}"
                raise FailedPreconditionError(f"{self._command[0]} cannot go on: {why}")
            program = json.loads(os.pread(answer, _SAID, 0))
            if not isinstance(program, list) or not all(isinstance(word, str) for word in program):
                raise FailedPreconditionError(f"{self._command[0]} did not say how it can go on")
            return program

    def _become(self, program: list[str]) -> None:
        """Becomes the new program.

        Args:
            program: its command line.

        Raises:
            FailedPreconditionError: something cannot be kept.
            OSError: the kernel refused; nothing has changed.
        """
        handed_over, store = self._write()
        given = _file(handed_over)
        fds = [given, *store.fds.values()]
        # These would end the process before the new program has its handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for fd in fds:
                os.set_inheritable(fd, True)
            _log.info("the shim becomes %s", " ".join(program))
            os.chdir("/")
            os.execve(program[0], program, {**os.environ, VARIABLE: str(given)})
        finally:
            for fd in fds:
                os.set_inheritable(fd, False)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(given)


def take_up(
    handed_over: HandedOver,
    fds: dict[str, int],
    daemon: Daemon[TaskService],
    supervisor: Supervisor,
    publisher: Publisher,
) -> None:
    """Goes on with what this process had before it became this program.

    Args:
        handed_over: what that was.
        fds: file descriptors of it, by name.
        daemon: the shim, which `run` of follows.
        supervisor: opened in this very step of the event loop, without a sweep.
        publisher: what it tells containerd.
    """
    shim = handed_over.shim
    publisher.take_up(shim["events"])
    daemon.service.containers.take_up(shim["records"])
    connections = [
        (fds.pop(f"connection-{number}"), known) for number, known in enumerate(shim["connections"])
    ]
    daemon.take_up(shim["expected"], connections)
    take_up_handed_over(supervisor, handed_over.state, fds)
    _log.info("upgraded, with %d containers and %d connections", len(list(supervisor)), len(connections))


def _file(data: bytes) -> int:
    """Returns a file descriptor, at its beginning, of a file in memory."""
    fd = tempdirs.make_file("shimpy")
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
