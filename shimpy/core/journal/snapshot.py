"""What a journal comes to, as the fewest lines that come to the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

from shimpy.core.journal.lines import Record
from shimpy.core.journal.state import JournalState, ProcessRecord

# Events to a line: a damaged one loses no more than these.
_EVENTS: Final = 256


def snapshot(state: JournalState) -> Iterator[Record]:
    """Yields the records of a state, the header first.

    Args:
        state: what all lines have come to.
    """
    yield state.header
    yield {
        "kept": "counters",
        "events": state.last_event,
        "sequence": state.last_sequence,
        "intents": state.last_intent,
        "told": state.told,
    }
    for container in state.containers.values():
        yield {
            "kept": "container",
            "container": container.id,
            "made": container.made,
            "init": _fields(container.init),
            "started": container.started,
            "paused": container.paused,
            "oom": container.oom,
        }
        for process in container.execs.values():
            yield {"kept": "exec", "exec": _fields(process)}
    for process in state.tombstones:
        yield {"kept": "tombstone", "process": _fields(process)}
    yield from state.intents.values()
    events = state.events.fields()
    for begin in range(0, len(events), _EVENTS):
        yield {"kept": "events", "list": events[begin : begin + _EVENTS]}
    if state.tokens:
        yield {"kept": "tokens", "list": state.tokens}


def _fields(process: ProcessRecord) -> dict[str, Any]:
    return {field.name: getattr(process, field.name) for field in dataclasses.fields(process)}
