"""What happens to containers, as shim.v1's Events stream tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from shimpy import api
from shimpy.core.events import Broadcast, Subscription
from shimpy.core.journal import Journal
from shimpy.core.model import ContainerEvent, EventKind
from shimpy.transport.grpc.metadata import SEQUENCE

# shim.v1 has no event for what is not here.
_EVENT_TYPES: Final = {
    kind: api.EventType.from_string(name)
    for kind, name in {
        EventKind.CREATE: "CREATE",
        EventKind.START: "START",
        EventKind.EXEC_STARTED: "EXEC_ADDED",
        EventKind.OOM: "OOM",
        EventKind.EXIT: "EXIT",
    }.items()
}

# The kinds of events that have a sequence number.
SEQUENCED: Final = frozenset(_EVENT_TYPES)


class ShimEvents(Broadcast[api.Event]):
    """The channel of the Events stream.

    Attributes:
        journal: knows what was told before this shim was started; None: nothing was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.journal: Journal | None = None
        self._last = 0

    def take_up(self, journal: Journal) -> None:
        """Goes on where the shim before has ended: what it had not told yet, its first subscriber gets.

        Args:
            journal: of both.
        """
        self.journal = journal
        events = [event for number, event in journal.state.events if number > journal.state.told]
        self._last = journal.state.last_sequence - len(events)
        for event in events:
            self.publish_event(event)

    def publish_event(self, event: ContainerEvent) -> None:
        """Publishes what happened, if shim.v1 has an event for it."""
        if event.kind in _EVENT_TYPES:
            self.publish(_encoded(event))

    def publish(self, item: api.Event) -> None:
        """Hands an event to every subscriber; its sequence number is one more than the last one's."""
        self._last += 1
        super().publish(item)

    def follow(self, after: int | None) -> ShimEventStream:
        """Subscribes from this moment on.

        Args:
            after: the sequence number of the last event that the client has got: what came after it comes
                first, as far as it is known. None: what nobody has been sent yet comes first.

        Raises:
            UnavailableError: the channel is closed.
        """
        subscription = self.subscribe()
        if after is not None and self.journal is not None:
            missed = [event for number, event in self.journal.state.events if number > after]
            subscription.begin_with(map(_encoded, missed))
        return ShimEventStream(self.journal, subscription, self._last + 1 - subscription.unread)


class ShimEventStream(AsyncIterator[api.Event]):
    """A subscription, closed by `aclose`.

    Not a generator: closing one that was never begun would not end the subscription.

    Args:
        journal: is told what was sent; None if there is none.
        subscription: to the channel.
        first: the sequence number of its first event.

    Attributes:
        metadata: what the client is told before the first event.
    """

    def __init__(self, journal: Journal | None, subscription: Subscription[api.Event], first: int) -> None:
        self.metadata = {SEQUENCE: str(first)}
        self._journal = journal
        self._subscription = subscription
        self._next = first
        self._has_sent = False

    async def __anext__(self) -> api.Event:
        # Who asks for the next one has sent the one before.
        if self._has_sent and self._journal is not None:
            self._journal.told(self._next - 1)
        event = await self._subscription.__anext__()
        self._next += 1
        self._has_sent = True
        return event

    async def aclose(self) -> None:
        """Leaves the channel. Idempotent."""
        self._subscription.close()


def _encoded(event: ContainerEvent) -> api.Event:
    return api.Event(
        id=event.container_id,
        type=_EVENT_TYPES[event.kind],
        pid=event.pid,
        exit_status=event.exit_status,
    )
