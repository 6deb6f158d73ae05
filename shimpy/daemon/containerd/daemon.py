"""The process that start leaves behind, up to where it serves."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from shimpy.daemon import import_stubs, logs
from shimpy.daemon.containerd.sockets import Place


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


def run(place: Place, *, container_id: str, namespace: str, ttrpc_address: str, debug: bool) -> int:
    """Serves the containers of a group until they are gone, and returns the exit status.

    The process has a clean slate (`shimpy.daemon.process_state`).

    Args:
        place: where containerd connects to.
        container_id: the first container.
        namespace: containerd's.
        ttrpc_address: where containerd takes events.
        debug: whether to log much.
    """
    logs.set_up("debug" if debug else "info", "text")
    sys.excepthook = logs.report_crash
    load()
    import asyncio

    from shimpy.core.supervisor import Supervisor
    from shimpy.daemon.containerd.serve import Daemon
    from shimpy.services.task.publisher import Publisher
    from shimpy.services.task.service import TaskService

    async def main() -> None:
        supervisor = Supervisor(sweep_orphans=True)
        publisher = Publisher(ttrpc_address, namespace)

        def make_service(shut_down: Callable[[], None]) -> TaskService:
            return TaskService(supervisor, namespace=namespace, forward=publisher.publish, shutdown=shut_down)

        try:
            supervisor.open()
            await Daemon(place, make_service, publisher, container_id).run()
        finally:
            await supervisor.aclose()

    asyncio.run(main())
    logging.shutdown()
    return 0
