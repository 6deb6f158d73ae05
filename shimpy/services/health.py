"""The standard health service: whether this server serves (gRPC's doc/health-checking.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from grpclib.const import Handler

from shimpy.api.health import (
    HealthBase,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthCheckResponseServingStatus as ServingStatus,
    HealthListRequest,
    HealthListResponse,
)
from shimpy.errors import NotFoundError
from shimpy.transport.grpc import wrap


class Health(HealthBase):
    """Answers that the server serves, for as long as it does.

    Args:
        services: the full names of the services that can be asked for; the empty name stands for the server.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = ("", *services)
        self._ending = asyncio.Event()

    def __mapping__(self) -> dict[str, Handler]:
        """Returns the handlers of the calls, as grpclib serves them."""
        calls = super().__mapping__()
        return wrap(calls, streams={path: self.follow for path in calls if path.endswith("/Watch")})

    async def check(self, health_check_request: HealthCheckRequest) -> HealthCheckResponse:
        """Returns the state of one service.

        Raises:
            NotFoundError: there is no such service.
        """
        if health_check_request.service not in self._services:
            raise NotFoundError(f"service: there is no {health_check_request.service!r} here")
        return self._state()

    async def list(self, health_list_request: HealthListRequest) -> HealthListResponse:
        """Returns the states of all services."""
        return HealthListResponse(statuses=dict.fromkeys(self._services, self._state()))

    async def follow(self, request: HealthCheckRequest) -> AsyncGenerator[HealthCheckResponse, None]:
        """Yields the state of one service, and then each change of it."""
        known = request.service in self._services
        yield self._state() if known else _response("SERVICE_UNKNOWN")
        if not self._ending.is_set():
            await self._ending.wait()
            if known:
                yield self._state()

    def close(self) -> None:
        """Says from now on that nothing is served, and ends the streams."""
        self._ending.set()

    def _state(self) -> HealthCheckResponse:
        return _response("NOT_SERVING" if self._ending.is_set() else "SERVING")


def _response(status: str) -> HealthCheckResponse:
    return HealthCheckResponse(status=ServingStatus.from_string(status))
