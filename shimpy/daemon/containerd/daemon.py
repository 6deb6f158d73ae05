"""The process that start leaves behind, up to where it serves."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Final

from shimpy.daemon import import_stubs, logs
from shimpy.daemon.containerd.sockets import Place

if TYPE_CHECKING:
    from shimpy.daemon.containerd.handover import HandedOver


# Seconds from the start to importing what only an upgrade needs, when nobody waits for the shim any more.
_LATER: Final = 5.0


def load() -> None:
    """Imports all that the daemon needs, and nothing of gRPC. Idempotent."""
    if "shimpy.services.task.service" in sys.modules:
        return  # even to look touches memory that a forked shim shares
    with import_stubs.imports():
        # Before anything imports betterproto, which by itself brings gRPC.
        import shimpy.api
        import shimpy.daemon.containerd.serve
        import shimpy.services.task.publisher
        import shimpy.services.task.service  # noqa: F401 - the last of those that are imported for later


def load_upgrade() -> ModuleType:
    """Imports what an upgrade needs: before it, since it is then that the files may be another version's."""
    name = "shimpy.daemon.containerd.upgrade"
    if name not in sys.modules:
        with import_stubs.imports():
            importlib.import_module(name)
    return sys.modules[name]


def run(
    place: Place,
    *,
    container_id: str,
    namespace: str,
    ttrpc_address: str,
    debug: bool,
    command: Sequence[str],
    before: tuple[HandedOver, dict[str, int]] | None = None,
) -> int:
    """Serves the containers of a group until they are gone, and returns the exit status.

    The process has a clean slate (`shimpy.daemon.process_state`).

    Args:
        place: where containerd connects to.
        container_id: the first container.
        namespace: containerd's.
        ttrpc_address: where containerd takes events.
        debug: whether to log much.
        command: by which an upgrade runs the program that is installed then, up to the action.
        before: what this process had before it became this program, and the file descriptors by name.
    """
    logs.set_up("debug" if debug else "info", "text")
    sys.excepthook = logs.report_crash
    # It waits for its handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    load()
    import asyncio

    from shimpy.core.supervisor import Supervisor
    from shimpy.daemon.containerd.serve import Daemon
    from shimpy.services.task.publisher import Publisher
    from shimpy.services.task.service import TaskService

    async def main() -> None:
        supervisor = Supervisor(sweep_orphans=True)
        publisher = Publisher(ttrpc_address, namespace)
        fixed = {"namespace": namespace, "ttrpc_address": ttrpc_address, "debug": debug}

        def make_service(shut_down: Callable[[], None]) -> TaskService:
            return TaskService(supervisor, namespace=namespace, forward=publisher.publish, shutdown=shut_down)

        daemon = Daemon(place, make_service, publisher, container_id)

        async def upgrade() -> None:
            await load_upgrade().Upgrade(command, daemon, supervisor, publisher, fixed).run()

        asyncio.get_running_loop().call_later(_LATER, load_upgrade)
        try:
            if before is None:
                supervisor.open()
            else:
                handed_over, fds = before
                supervisor.open(sweep=False)
                load_upgrade().take_up(handed_over, fds, daemon, supervisor, publisher)
            await daemon.run(upgrade)
        finally:
            await supervisor.aclose()

    asyncio.run(main())
    logging.shutdown()
    return 0
