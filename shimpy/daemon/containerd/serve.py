"""The daemon's life: whom it expects, when it ends, and how."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import betterproto

from shimpy.api import task, well_known
from shimpy.daemon.containerd.sockets import JOIN_METHOD, JOIN_SERVICE, Place
from shimpy.errors import UnavailableError
from shimpy.services.task.publisher import Publisher
from shimpy.transport.methods import Method, Services
from shimpy.transport.ttrpc import TtrpcServer

# Seconds without a container and a connection after which the daemon ends; and for which one is expected.
IDLE_LIMIT: Final = 60.0

# Seconds at the end: for calls under way; for events that containerd has not taken yet; for the directory of
# the socket to be free; until the process ends whatever hangs.
_GRACE: Final = 1.2
_FLUSH_TIMEOUT: Final = 5.0
_LOCK_TIMEOUT: Final = 1.0
_LOCK_PAUSE: Final = 0.005
_SHUTDOWN_TIMEOUT: Final = 8.0

# What the daemon has a handler for. The program that it has become starts with them held back.
SIGNALS: Final = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


class Served(Protocol):
    """The containers, as the daemon sees them."""

    @property
    def idle(self) -> bool:
        """Whether there is none."""

    def services(self) -> Services:
        """Returns the methods to serve; those called Shutdown are told of here too."""


_Served = TypeVar("_Served", bound=Served)


class Daemon(Generic[_Served]):
    """Serves a group of containers, and exits when it is no longer needed.

    containerd wants a shim to end with its last container. But just before, the start of another container of
    the group may have found it. So a start says which container is to come (`JOIN_SERVICE`), and until that
    one has been shut down too, or a minute has passed, no other's Shutdown ends the shim.

    Args:
        place: where containerd connects to.
        make_service: makes the service, from what it is to call when a Shutdown finds no container left.
        publisher: of the events, flushed at the end.
        container_id: the first container, which is expected.
        idle_limit: see `IDLE_LIMIT`.

    Attributes:
        place: see above.
        service: what was made.
        server: serves it.
        expected: until when a container is expected (time.monotonic), by its id.
    """

    def __init__(
        self,
        place: Place,
        make_service: Callable[[Callable[[], None]], _Served],
        publisher: Publisher,
        container_id: str,
        *,
        idle_limit: float = IDLE_LIMIT,
    ) -> None:
        self.place = place
        self._publisher = publisher
        self._idle_limit = idle_limit
        self.expected = {container_id: time.monotonic() + idle_limit}
        self._stop = asyncio.Event()
        self.service = make_service(self._shut_down)
        self.server = TtrpcServer(self._services())
        self._connections: Sequence[tuple[int, Mapping[str, Any]]] = ()
        self._upgrading: asyncio.Task[None] | None = None

    def take_up(
        self, expected: Mapping[str, float], connections: Sequence[tuple[int, Mapping[str, Any]]]
    ) -> None:
        """Has `run` go on where another has left off.

        Args:
            expected: see the attribute.
            connections: see `TtrpcServer.take_up`.
        """
        self.expected = dict(expected)
        self._connections = connections

    async def run(self, upgrade: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Serves until the last container is shut down, or SIGTERM or SIGINT; a second one ends the process.

        Containers that still run are left to containerd: as the connection ends, it calls `delete`.

        Args:
            upgrade: called at SIGHUP, unless one is under way; None: SIGHUP ends the process.
        """
        with self._signals(upgrade):
            await self.server.take_up(self._connections)
            await self.server.start(self.place.listener)
            watching = asyncio.ensure_future(self._watch())
            _log.debug("serving on %s", self.place.path)
            try:
                await self._stop.wait()
            finally:
                watching.cancel()
                if self._upgrading is not None:
                    self._upgrading.cancel()
                    await asyncio.wait([self._upgrading])
            giving_up = asyncio.get_running_loop().call_later(_SHUTDOWN_TIMEOUT, _give_up)
            await self._end()
            giving_up.cancel()

    def stop(self) -> None:
        """Has `run` come to its end. Idempotent."""
        self._stop.set()

    def _services(self) -> Services:
        served = {name: dict(methods) for name, methods in self.service.services().items()}
        for methods in served.values():
            if (inner := methods.get("Shutdown")) is not None:
                methods["Shutdown"] = Method(self._forgetting(inner), inner.request)
        return {**served, JOIN_SERVICE: {JOIN_METHOD: Method(self._join, task.ConnectRequest)}}

    def _forgetting(self, inner: Method) -> Callable[[Any], Coroutine[Any, Any, betterproto.Message]]:
        """Returns a Shutdown after which its container is not expected any more."""

        async def shutdown(request: task.ShutdownRequest) -> betterproto.Message:
            self.expected.pop(request.id, None)
            return await inner.handler(request)

        return shutdown

    async def _join(self, request: task.ConnectRequest) -> well_known.Empty:
        """Expects a container.

        Raises:
            UnavailableError: it is too late.
        """
        if self._stop.is_set():
            raise UnavailableError("the shim is shutting down")
        self.expected[request.id] = time.monotonic() + self._idle_limit
        return well_known.Empty()

    def _shut_down(self) -> None:
        if self.service.idle and not self._is_expecting():
            self.stop()

    def _is_expecting(self) -> bool:
        now = time.monotonic()
        self.expected = {name: end for name, end in self.expected.items() if end > now}
        return bool(self.expected)

    async def _watch(self) -> None:
        """Ends a daemon that was never used: its starter has died or changed its mind."""
        since = time.monotonic()
        while True:
            await asyncio.sleep(self._idle_limit / 4)
            if self.server.connected or not self.service.idle or self._is_expecting():
                since = time.monotonic()
            elif time.monotonic() - since >= self._idle_limit:
                _log.info("no container and no connection for %g s", self._idle_limit)
                self.stop()

    async def _end(self) -> None:
        # First of all, so that no start finds it.
        end = time.monotonic() + _LOCK_TIMEOUT
        while not self.place.remove(timeout=0):
            if time.monotonic() > end:
                _log.warning("%s stays: its directory is locked", self.place.path)
                break
            # Who has the lock may be waiting for an answer from here.
            await asyncio.sleep(_LOCK_PAUSE)
        await asyncio.gather(self.server.drain(_GRACE), self._publisher.flush(_FLUSH_TIMEOUT))
        await self._publisher.aclose()

    @contextlib.contextmanager
    def _signals(self, upgrade: Callable[[], Coroutine[Any, Any, None]] | None) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def begin_upgrade() -> None:
            if upgrade is not None and (self._upgrading is None or self._upgrading.done()):
                self._upgrading = loop.create_task(upgrade())

        def end(number: signal.Signals) -> None:
            if self._stop.is_set():
                os._exit(128 + number)
            _log.info("%s: the shim ends", number.name)
            self.stop()

        numbers: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, end, number)
        if upgrade is not None:
            numbers = SIGNALS
            loop.add_signal_handler(signal.SIGHUP, begin_upgrade)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def _give_up() -> None:
    _log.error("the shutdown took more than %g s; what is left is abandoned", _SHUTDOWN_TIMEOUT)
    os._exit(0)
