"""The last events that subscribers were told of, for those that come back."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from shimpy.core.model import ContainerEvent, EventKind

# How many, as many as `core.events` keeps for one that is slow.
LIMIT: Final = 4096

Fields = tuple[int, str, str, int, int, str, int]


class EventHistory:
    """The last 4,096 events, oldest first, each with its sequence number.

    They are kept as JSON: as objects they would take 1.5 MB, as much as a shim's whole container.
    """

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=LIMIT)

    def append(self, sequence: int, event: ContainerEvent) -> None:
        """Adds an event.

        Args:
            sequence: its number.
            event: what happened.
        """
        self._lines.append(json.dumps(_fields(sequence, event), separators=(",", ":")).encode())

    def __iter__(self) -> Iterator[tuple[int, ContainerEvent]]:
        for line in self._lines:
            yield from_fields(json.loads(line))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EventHistory) and self._lines == other._lines

    __hash__ = None  # type: ignore[assignment]  # it changes

    def fields(self) -> list[Fields]:
        """Returns all of them as `from_fields` takes them, of plain values."""
        return [tuple(json.loads(line)) for line in self._lines]


def from_fields(fields: Any) -> tuple[int, ContainerEvent]:
    """Returns an event and its sequence number.

    Args:
        fields: one of `EventHistory.fields`.

    Raises:
        ValueError: they are not such.
        TypeError: the same.
    """
    sequence, kind, container_id, time, pid, exec_id, status = fields
    event = ContainerEvent(str(container_id), EventKind(kind), int(time), int(pid), str(exec_id), int(status))
    return int(sequence), event


def _fields(sequence: int, event: ContainerEvent) -> Fields:
    return (
        sequence,
        event.kind.value,
        event.container_id,
        event.time,
        event.pid,
        event.exec_id,
        event.exit_status,
    )
