"""The channel that carries events to any number of listeners."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Generic, TypeVar

from shimpy.errors import ResourceExhaustedError, UnavailableError

T = TypeVar("T")

# How many events wait for a first subscriber, and how many a slow one may leave unread.
#
# The worst burst is a container's end with every record in use: one EXIT for each of 4,096 execs.
BACKLOG = 4096


class Subscription(AsyncIterator[T]):
    """One listener's view of a Broadcast: an async iterator that ends when the channel is closed.

    Iterating raises ResourceExhaustedError, after the events that still fitted, when the listener
    fell more than the channel's limit behind.
    """

    # Not anyio's memory object streams: importing what they need takes 5 MB and, of a shim's first
    # event, 30 ms.
    def __init__(self, broadcast: Broadcast[T], missed: Iterable[T]) -> None:
        self._broadcast = broadcast
        self._unread = deque(missed)
        self._news = asyncio.Event()
        self._over = False
        self._lagged = False

    @property
    def unread(self) -> int:
        """How many items are there to be read."""
        return len(self._unread)

    def begin_with(self, items: Iterable[T]) -> None:
        """Has it begin with some items instead of those that it missed."""
        self._unread = deque(items)

    async def __anext__(self) -> T:
        # However much there is to read, others have their turn after each.
        await asyncio.sleep(0)
        while not self._unread:
            if self._lagged:
                limit = self._broadcast.limit
                raise ResourceExhaustedError(
                    f"events: more than {limit} events were left unread; subscribe again and ask for State"
                )
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._unread.popleft()

    def close(self) -> None:
        """Leaves the channel; what was not read is dropped. Idempotent."""
        self._broadcast._leave(self)
        self._unread.clear()
        self._lagged = False
        self._end()

    def _offer(self, item: T) -> bool:
        """Hands the listener an item without waiting; False when it has fallen too far behind."""
        self._lagged = len(self._unread) >= self._broadcast.limit
        if self._lagged:
            self._end()
            return False
        self._unread.append(item)
        self._news.set()
        return True

    def _end(self) -> None:
        self._over = True
        self._news.set()


class Broadcast(Generic[T]):
    """A channel on which every subscriber gets every item from its subscription on, in one order.

    Publishing never waits: a subscriber that does not keep up loses its subscription, not the
    others' time. What is published while there are no subscribers is kept, the last `limit` of it, for
    the first subscriber.

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
        subscription = Subscription(self, self._backlog)
        self._backlog.clear()
        self._subscriptions.append(subscription)
        return subscription

    def close(self) -> None:
        """Ends every subscription once it has read what was published. Idempotent."""
        self._closed = True
        self._backlog.clear()
        for subscription in self._subscriptions:
            subscription._end()
        self._subscriptions.clear()

    def _leave(self, subscription: Subscription[T]) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
