"""What happens to containers, as shim.v1's Events stream tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final, NamedTuple

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


class NumberedEvent(NamedTuple):
    """An event, and which one it is since the first shim at this socket."""

    sequence: int
    event: api.Event


class ShimEvents(Broadcast[NumberedEvent]):
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
        self._last = journal.state.last_sequence
        self._publish_all(each for each in journal.state.events if each[0] > journal.state.told)

    def publish_event(self, event: ContainerEvent) -> None:
        """Publishes what happened, if shim.v1 has an event for it."""
        if event.kind in _EVENT_TYPES:
            self._last += 1
            self._publish_all([(self._last, event)])

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
            missed = [each for each in self.journal.state.events if each[0] > after]
            subscription.begin_with(map(_numbered, missed))
        first = subscription.first
        return ShimEventStream(self, subscription, self._last + 1 if first is None else first.sequence)

    def _publish_all(self, events: Iterable[tuple[int, ContainerEvent]]) -> None:
        for each in events:
            self.publish(_numbered(each))


class ShimEventStream(AsyncIterator[api.Event]):
    """A subscription, closed by `aclose`.

    Not a generator: closing one that was never begun would not end the subscription.

    Args:
        events: the channel.
        subscription: to it.
        first: the sequence number of its first event.

    Attributes:
        metadata: what the client is told before the first event.
    """

    def __init__(self, events: ShimEvents, subscription: Subscription[NumberedEvent], first: int) -> None:
        self.metadata = {SEQUENCE: str(first)}
        self._events = events
        self._subscription = subscription
        self._sent = 0

    async def __anext__(self) -> api.Event:
        # Who asks for the next one has sent the one before.
        if self._sent and (journal := self._events.journal) is not None:
            journal.told(self._sent)
        item = await self._subscription.__anext__()
        self._sent = item.sequence
        return item.event

    async def aclose(self) -> None:
        """Leaves the channel. Idempotent."""
        self._subscription.close()


def _numbered(each: tuple[int, ContainerEvent]) -> NumberedEvent:
    sequence, event = each
    told = api.Event(
        id=event.container_id,
        type=_EVENT_TYPES[event.kind],
        pid=event.pid,
        exit_status=event.exit_status,
    )
    return NumberedEvent(sequence, told)
