"""The API's enumerations by short names; betterproto leaves its members plain numbers to a type checker."""

from __future__ import annotations

from shimpy.api import EventType, State

CREATE = EventType(EventType.CREATE)
START = EventType(EventType.START)
EXEC_ADDED = EventType(EventType.EXEC_ADDED)
OOM = EventType(EventType.OOM)
EXIT = EventType(EventType.EXIT)

CREATED = State(State.CREATED)
RUNNING = State(State.RUNNING)
PAUSED = State(State.PAUSED)
STOPPED = State(State.STOPPED)
