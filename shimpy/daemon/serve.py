"""`python -m shimpy` once its arguments are read: the process, its socket, its signals and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator

from shimpy.daemon.notify import notify
from shimpy.daemon.survival import Survival
from shimpy.services.lazy_services import LazyServices
from shimpy.services.shim_v1 import Shim
from shimpy.transport import unix
from shimpy.transport.grpc import GrpcServer

_log = logging.getLogger(__name__)

# Seconds for the calls under way at a shutdown. What follows takes 1.3 s at most, of the 3 that there are.
GRACE = 1.2

# Seconds until the runtime is asked for its version: not while the first calls, which are sure to follow at
# once, need the processor.
CHECK_AFTER = 1.0

# Seconds until the process ends whatever hangs.
SHUTDOWN_TIMEOUT = 2.8


async def serve(shim: Shim, path: str, fds: dict[str, int] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then lets every client know how its calls ended.

    The second of these signals ends the process at once, with exit status 128 + its number. A container
    that runs is left running, and so it is by SIGHUP, after which the shim that is started next goes on.

    Args:
        shim: the service, which is closed at the end.
        path: of the socket; see `unix.listen`.
        fds: what the shim before this one has stored, by name; see `notify.take_fds`.

    Raises:
        ShimError: the socket could not be made, or the shim before this one was a newer one.
    """
    stop = asyncio.Event()
    with contextlib.ExitStack() as undo:
        undo.enter_context(_signals(stop, undo.close))
        survival = Survival(path, {} if fds is None else fds)
        undo.callback(survival.close)
        survival.open()
        shim.open()
        try:
            await survival.take_up(shim)
            survival.on_restart(stop.set)
            others = LazyServices("containerd.shim.v1.Shim", supervisor=shim.supervisor)
            server = GrpcServer([shim], later=others.later, admit=unix.admit)
            await server.start(survival.place.socket)
            _log.info("serving on %s", survival.place.path)
            notify("READY=1")
            checking = asyncio.ensure_future(_check(shim))
            undo.callback(checking.cancel)
            await stop.wait()
            asyncio.get_running_loop().call_later(SHUTDOWN_TIMEOUT, _give_up)
            notify("STOPPING=1")
            _log.info("shutting down")
            # First of all, so that who starts the next server finds the place free.
            survival.leave_place()

            def end_streams() -> None:
                if not survival.is_restart:
                    shim.close_events()
                    others.close()

            await server.drain(GRACE, end_streams=end_streams)
        finally:
            survival.end_storing()
            await shim.aclose()
    _log.info("ended")


@contextlib.contextmanager
def _signals(stop: asyncio.Event, abandon: Callable[[], None]) -> Iterator[None]:
    """Has SIGTERM and SIGINT end the server, and the second of them the process."""
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        if not stop.is_set():
            stop.set()
            return
        abandon()
        os._exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _check(shim: Shim) -> None:
    await asyncio.sleep(CHECK_AFTER)
    await shim.check_runtime()


def _give_up() -> None:
    _log.error("the shutdown took more than %g s; what is left is abandoned", SHUTDOWN_TIMEOUT)
    os._exit(0)
