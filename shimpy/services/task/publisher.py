"""What happens to containers, told to containerd: every event once, in the order in which they happened."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable
from typing import Final

import betterproto

from shimpy.api import events, well_known
from shimpy.errors import DeadlineExceededError, ShimError, UnavailableError
from shimpy.transport.protobuf import decode, encode
from shimpy.transport.ttrpc import Client, connect

SERVICE: Final = "containerd.services.events.ttrpc.v1.Events"

# Events kept for a containerd that does not take them; then the oldest are dropped.
MAX_QUEUED: Final = 4_096

# Seconds for one call. A containerd that is frozen, or short of CPU, takes what it was asked once it goes on,
# and with it each repetition that has been made meanwhile. One that has died is known at once.
_CALL_TIMEOUT: Final = 60.0

# Seconds between attempts: a containerd that is restarted is away for some of them.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0

# Where betterproto's name of a message is not the proto's.
_PROTO_NAMES: Final = {"TaskOom": "TaskOOM"}

_log = logging.getLogger(__name__)


class Publisher:
    """Forwards events to containerd, one call at a time.

    While containerd is away, or does not answer, the event is offered again until it is taken, and those
    behind it wait: one that is taken without an answer may come twice, but none is overtaken.

    It belongs to the event loop in which it is first used.

    Args:
        address: containerd's TTRPC_ADDRESS, a path with or without `unix://`; empty to publish nothing.
        namespace: containerd's, of all the events.
    """

    def __init__(self, address: str, namespace: str) -> None:
        self._path = address.removeprefix("unix://")
        self._namespace = namespace
        self._queue: deque[events.Envelope] = deque()
        self._dropped = 0
        self._closed = self._paused = self._is_asking = False
        self._client: Client | None = None
        self._sending: asyncio.Task[None] | None = None

    def publish(self, topic: str, message: betterproto.Message) -> None:
        """Queues an event. Never waits.

        Args:
            topic: such as /tasks/exit.
            message: of shimpy.api.events; it may be changed afterwards.
        """
        if self._closed or not self._path:
            return
        name = type(message).__name__
        nanoseconds = time.time_ns()
        self._queue.append(
            events.Envelope(
                timestamp=well_known.Timestamp(nanoseconds // 10**9, nanoseconds % 10**9),
                namespace=self._namespace,
                topic=topic,
                event=well_known.Any(f"containerd.events.{_PROTO_NAMES.get(name, name)}", encode(message)),
            )
        )
        if len(self._queue) > MAX_QUEUED:
            self._drop()
        self._begin()

    @property
    def under_way(self) -> set[asyncio.Task[None]]:
        """What sends, if something does."""
        return set() if self._sending is None or self._sending.done() else {self._sending}

    def pause(self) -> None:
        """Begins no more calls, until `resume`."""
        self._paused = True
        if self._sending is not None and not self._is_asking:
            self._sending.cancel()
            self._sending = None

    def resume(self) -> None:
        """Goes on after `pause`."""
        self._paused = False
        self._begin()

    def hand_over(self) -> list[str]:
        """Returns what has not been delivered, the oldest first, for another's `take_up`."""
        return [base64.b64encode(encode(envelope)).decode() for envelope in self._queue]

    def take_up(self, queue: Iterable[str]) -> None:
        """Delivers, before all that is to come, what another has not.

        Args:
            queue: as its `hand_over` returned it.
        """
        self._queue.extend(read_queue(queue))
        self._begin()

    def _begin(self) -> None:
        if self._queue and not self._paused and not self.under_way:
            self._sending = asyncio.get_running_loop().create_task(self._send_all())

    async def flush(self, timeout: float) -> bool:
        """Waits until all that was published is delivered.

        Args:
            timeout: seconds after which it is waited no longer; what is left is still offered.

        Returns:
            Whether all of it was.
        """
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=timeout)
        return not self._queue

    async def aclose(self) -> None:
        """Gives up what has not been delivered, and what comes from now on. Idempotent."""
        self._closed = True
        if self._queue:
            _log.warning("%d events were not delivered to containerd", len(self._queue))
            self._queue.clear()
        if self._sending is not None:
            self._sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sending
            self._sending = None
        self._disconnect()

    def _drop(self) -> None:
        if not self._dropped:
            _log.warning("containerd has not taken %d events; the oldest are dropped", MAX_QUEUED)
        self._queue.popleft()
        self._dropped += 1

    async def _send_all(self) -> None:
        """Delivers what is queued, and ends when nothing is left."""
        pause = _FIRST_PAUSE
        while self._queue and not self._paused:
            # It stays the first of the queue until it is taken, unless so many come that it is dropped.
            envelope = self._queue[0]
            self._is_asking = True
            try:
                await self._send(envelope)
            except (UnavailableError, DeadlineExceededError) as error:
                _log.debug("%s waits for containerd: %s", envelope.topic, error)
                self._disconnect()
                self._is_asking = False
                if self._paused:
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except ShimError as error:
                _log.warning("containerd refused an event %s: %s", envelope.topic, error)
            self._is_asking = False
            pause = _FIRST_PAUSE
            if self._dropped:
                _log.warning("containerd is back; %d events were dropped", self._dropped)
                self._dropped = 0
            if self._queue and self._queue[0] is envelope:
                self._queue.popleft()

    async def _send(self, envelope: events.Envelope) -> None:
        if self._client is None or self._client.closed:
            self._client = await connect(self._path)
        request = events.ForwardRequest(envelope)
        await self._client.call(SERVICE, "Forward", request, well_known.Empty, timeout=_CALL_TIMEOUT)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def read_queue(queue: Iterable[str]) -> list[events.Envelope]:
    """Returns events; see `Publisher.take_up`.

    Raises:
        ShimError, ValueError: they are not understood.
    """
    return [decode(events.Envelope, base64.b64decode(each)) for each in queue]
