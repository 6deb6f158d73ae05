"""What a service offers, whichever protocol it is served over."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import betterproto


class Method(NamedTuple):
    """A method that takes one message and answers with one.

    Attributes:
        handler: called with the decoded request; returns the reply, or raises a ShimError for the client to
            read. It runs in a task of its own, which is cancelled when the call's deadline passes or its
            client goes away; what it returns all the same is the answer.
        request: the class of its requests.
        repeatable: it waits, and changes nothing: a call of it can be begun anew, and comes to the same.
    """

    handler: Callable[[Any], Coroutine[Any, Any, betterproto.Message]]
    request: type[betterproto.Message]
    repeatable: bool = False


# Methods by their names, by the full names of the services that they belong to.
Services: TypeAlias = Mapping[str, Mapping[str, Method]]

# What came along with a call: keys, which may repeat, and values.
Metadata: TypeAlias = tuple[tuple[str, str], ...]

# Of the call that a handler is running for.
METADATA: ContextVar[Metadata] = ContextVar("METADATA", default=())
