"""What happens to a container, told to whoever listens: the events and the channel that carries them."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import ResourceExhaustedError, UnavailableError

# anyio is imported by the first who subscribes; until then it would be a tenth of the shim's start.
if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

T = TypeVar("T")

BACKLOG = 4096
"""How many events wait for a first subscriber, and how many a slow one may leave unread.

The worst burst is a container's end with every record in use: one EXIT for each of 4,096 execs.
"""


class EventType(enum.Enum):
    """What can happen to a process of a container."""

    CREATE = "create"
    START = "start"
    EXEC_ADDED = "exec-added"
    OOM = "oom"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a process.

    Attributes:
        container_id: the container's id.
        type: what happened.
        pid: the process, in the pid namespace of the shim.
        exit_status: for EXIT, the exit code, or 128 + the number of the signal that ended it; else 0.
    """

    container_id: str
    type: EventType
    pid: int
    exit_status: int = 0


class Subscription(AsyncIterator[T]):
    """One listener's view of a Broadcast: an async iterator that ends when the channel is closed.

    Iterating raises ResourceExhaustedError, after the events that still fitted, when the listener
    fell more than the channel's limit behind.
    """

    def __init__(
        self,
        broadcast: Broadcast[T],
        send: MemoryObjectSendStream[T],
        receive: MemoryObjectReceiveStream[T],
    ) -> None:
        self._broadcast = broadcast
        self._send = send
        self._receive = receive
        self._lagged = False

    async def __anext__(self) -> T:
        from anyio import ClosedResourceError, EndOfStream

        try:
            return await self._receive.receive()
        except EndOfStream:
            if self._lagged:
                limit = self._broadcast.limit
                raise ResourceExhaustedError(
                    f"events: more than {limit} events were left unread; subscribe again and ask for State"
                ) from None
            raise StopAsyncIteration from None
        except ClosedResourceError:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Leaves the channel; what was not read is dropped. Closing twice is harmless."""
        self._broadcast._leave(self)
        self._send.close()
        self._receive.close()

    def _offer(self, item: T) -> bool:
        """Hands the listener an item without waiting; False when it has fallen too far behind."""
        from anyio import BrokenResourceError, ClosedResourceError, WouldBlock

        try:
            self._send.send_nowait(item)
        except WouldBlock:
            self._lagged = True
        except (BrokenResourceError, ClosedResourceError):
            pass
        else:
            return True
        self._send.close()
        return False

    def _end(self) -> None:
        self._send.close()


class Broadcast(Generic[T]):
    """A channel on which every subscriber gets every item from its subscription on, in one order.

    Publishing never waits: a subscriber that does not keep up loses its subscription, not the
    others' time. What is published while nobody listens is kept, the last `limit` of it, for
    whoever subscribes first.

    Args:
        limit: how many unread items a subscription holds, and how many the backlog.
    """

    def __init__(self, limit: int = BACKLOG) -> None:
        self.limit = limit
        self._backlog: deque[T] = deque(maxlen=limit)
        self._subscriptions: list[Subscription[T]] = []
        self._closed = False

    def publish(self, item: T) -> None:
        """Hands an item to every subscriber; after close() it goes nowhere."""
        if self._closed:
            return
        if not self._subscriptions:
            self._backlog.append(item)
            return
        lost = [one for one in self._subscriptions if not one._offer(item)]
        for one in lost:
            self._leave(one)
        if not self._subscriptions:
            # Who subscribes again goes on where it fell behind.
            self._backlog.append(item)

    def subscribe(self) -> Subscription[T]:
        """Subscribes, from this moment on.

        Raises:
            UnavailableError: the channel is closed.
        """
        if self._closed:
            raise UnavailableError("events: the shim is shutting down")
        from anyio import create_memory_object_stream

        send, receive = create_memory_object_stream[T](self.limit)
        subscription = Subscription(self, send, receive)
        for item in self._backlog:
            subscription._offer(item)
        self._backlog.clear()
        self._subscriptions.append(subscription)
        return subscription

    def close(self) -> None:
        """Ends every subscription once it has read what was published. Closing twice is harmless."""
        self._closed = True
        self._backlog.clear()
        for subscription in self._subscriptions:
            subscription._end()
        self._subscriptions.clear()

    def _leave(self, subscription: Subscription[T]) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
