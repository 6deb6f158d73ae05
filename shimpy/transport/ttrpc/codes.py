"""The statuses that a call can end with: google.rpc.Code, which gRPC and ttrpc share."""

from __future__ import annotations

from typing import Final

_NAMES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

_NUMBERS: Final = {name: number for number, name in enumerate(_NAMES)}

OK: Final = 0


def number_of(name: str) -> int:
    """Returns the number of a status, such as 5 of NOT_FOUND.

    Raises:
        KeyError: there is no such status.
    """
    return _NUMBERS[name]


def name_of(number: int) -> str:
    """Returns the name of a status; UNKNOWN for a number that has none."""
    return _NAMES[number] if 0 <= number < len(_NAMES) else "UNKNOWN"
