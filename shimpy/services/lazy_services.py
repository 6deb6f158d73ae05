"""The services that tools expect of any gRPC server, made when somebody first calls them.

A shim is started far more often than it is asked what it is, so its start does not pay for these.
"""

from __future__ import annotations

from collections.abc import Callable

from shimpy.transport.grpc import Service

HEALTH = "grpc.health.v1.Health"

# The second is the older edition, which most tools still speak.
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Standard:
    """Health and server reflection.

    Args:
        services: the full names of the services that they are about.

    Attributes:
        later: what makes each of them, by full name, as `transport.Server` takes it.
    """

    def __init__(self, *services: str) -> None:
        self._services = services
        self._closers: list[Callable[[], None]] = []
        self.later: dict[str, Callable[[], Service]] = {
            HEALTH: self._health,
            **dict.fromkeys(REFLECTION, self._reflection),
        }

    def close(self) -> None:
        """Ends the streams of those that were called."""
        for close in self._closers:
            close()

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
