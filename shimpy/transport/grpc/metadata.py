"""What a client says of a call beside its request: the metadata that is meant for shimpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

from shimpy.errors import InvalidArgumentError

# An idempotency token: a call that is repeated with it takes effect once.
TOKEN: Final = "shimpy-token"  # noqa: S105 - not a secret

# Of Events: the sequence number of the last event that the client has got.
AFTER: Final = "shimpy-after"

# In the initial metadata of Events: the sequence number of the first event that follows.
SEQUENCE: Final = "shimpy-sequence"

_LONGEST_TOKEN: Final = 64

_PREFIX: Final = "shimpy-"

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

_metadata: ContextVar[Mapping[str, str]] = ContextVar("metadata", default=_NOTHING)


def note(headers: Iterable[tuple[str, str]]) -> None:
    """Notes what the headers of the call say that runs in this context."""
    if found := {name: value for name, value in headers if name.startswith(_PREFIX)}:
        _metadata.set(found)


def token() -> str:
    """Returns the token of the call that runs in this context, "" if it has none.

    Raises:
        InvalidArgumentError: it is too long.
    """
    found = _metadata.get().get(TOKEN, "")
    if len(found) > _LONGEST_TOKEN:
        raise InvalidArgumentError(
            f"{TOKEN}: has {len(found)} characters; at most {_LONGEST_TOKEN} are taken"
        )
    return found


def after() -> int | None:
    """Returns where the client of the call in this context was in the events, None if it does not say.

    Raises:
        InvalidArgumentError: it is not a number.
    """
    found = _metadata.get().get(AFTER)
    if found is None:
        return None
    if not (found.isascii() and found.isdigit() and len(found) < 20):
        raise InvalidArgumentError(f"{AFTER}: {found[:20]!r} is not a sequence number")
    return int(found)
