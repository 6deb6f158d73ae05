"""The services beside the main one, created at their first call, so that start-up does not pay for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from shimpy.core.supervisor import Supervisor
from shimpy.transport.grpc import Service

HEALTH = "grpc.health.v1.Health"

# The second is the older edition, which most tools still speak.
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


TASK = ("containerd.task.v2.Task", "containerd.task.v3.Task")


class LazyServices:
    """Health and server reflection, which tools expect of any server, and containerd's Task API.

    Args:
        services: the full names of the services that health and reflection are about.
        supervisor: whose container the Task API is about.

    Attributes:
        later: what makes each of them, by full name, as `transport.Server` takes it.
    """

    def __init__(self, *services: str, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._services = services
        self._closers: list[Callable[[], None]] = []
        self.later: dict[str, Callable[[], Service]] = {
            HEALTH: self._health,
            **dict.fromkeys(REFLECTION, self._reflection),
            **{name: partial(self._task, name) for name in TASK},
        }

    def close(self) -> None:
        """Ends the streams of those that were called."""
        for close in self._closers:
            close()

    def _task(self, name: str) -> Service:
        from shimpy.services.task.service import TaskService
        from shimpy.transport.grpc.methods import MethodService

        return MethodService(name, TaskService(self._supervisor).services()[name])

    def _health(self) -> Service:
        from shimpy.services.health import Health

        health = Health(self._services)
        self._closers.append(health.close)
        return health

    def _reflection(self) -> Service:
        from shimpy.services.reflection import Reflection

        reflection = Reflection([*self._services, *self.later], REFLECTION)
        self._closers.append(reflection.close)
        return reflection
