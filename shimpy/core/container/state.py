"""The states of a container, and what each allows."""

from __future__ import annotations

import enum

from shimpy.errors import FailedPreconditionError


class State(enum.Enum):
    """What a container, or a process of it, is doing."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


# Everything else is refused by naming the state.
_ALLOWED: dict[str, tuple[State, ...]] = {
    "start": (State.CREATED,),
    "exec": (State.CREATED, State.RUNNING),
    "pause": (State.RUNNING,),
    "resume": (State.PAUSED,),
    "update": (State.CREATED, State.RUNNING, State.PAUSED),
    "checkpoint": (State.RUNNING, State.PAUSED),
}

# The one change during which something else is allowed: a starting container can be entered.
_ALLOWED_DURING = {("exec", "started")}


def require(call: str, container_id: str, state: State, change: str | None) -> None:
    """Refuses a call that the state forbids.

    Args:
        call: start, exec, pause, resume, update or checkpoint.
        container_id: the container, for the message.
        state: its state.
        change: what is being done to it: started, paused, resumed or deleted.

    Raises:
        FailedPreconditionError: naming the state, or the change.
    """
    if change is not None and (call, change) not in _ALLOWED_DURING:
        raise FailedPreconditionError(f"{call}: container {container_id} is being {change}")
    if state not in _ALLOWED[call]:
        needed = " or ".join(allowed.value for allowed in _ALLOWED[call])
        raise FailedPreconditionError(
            f"{call}: container {container_id} is {state.value}; it must be {needed}"
        )
