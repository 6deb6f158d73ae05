"""What happens to containers, as shim.v1's Events stream tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shimpy import api
from shimpy.core.events import Broadcast, Subscription
from shimpy.core.model import ContainerEvent, EventKind

# shim.v1 has no event for what is not here.
_EVENT_TYPES = {
    kind: api.EventType.from_string(name)
    for kind, name in {
        EventKind.CREATE: "CREATE",
        EventKind.START: "START",
        EventKind.EXEC_STARTED: "EXEC_ADDED",
        EventKind.OOM: "OOM",
        EventKind.EXIT: "EXIT",
    }.items()
}


class ShimEvents(Broadcast[api.Event]):
    """The channel of the Events stream."""

    def publish_event(self, event: ContainerEvent) -> None:
        """Publishes what happened, if shim.v1 has an event for it."""
        if event.kind in _EVENT_TYPES:
            self.publish(
                api.Event(
                    id=event.container_id,
                    type=_EVENT_TYPES[event.kind],
                    pid=event.pid,
                    exit_status=event.exit_status,
                )
            )


class ShimEventStream(AsyncIterator[api.Event]):
    """A subscription, closed by `aclose`.

    Not a generator: closing one that was never begun would not end the subscription.
    """

    def __init__(self, subscription: Subscription[api.Event]) -> None:
        self._subscription = subscription

    async def __anext__(self) -> api.Event:
        return await self._subscription.__anext__()

    async def aclose(self) -> None:
        """Leaves the channel. Idempotent."""
        self._subscription.close()
