"""What a shim hands over to the program that its process becomes: a journal's lines, and one of its own.

The lines before the last are those of a journal that is written anew (`shimpy.core.journal.lines`): the
containers and their processes. The last is what only a shim of containerd's has:

    {"shim": 1, "fds": {NAME: NUMBER, ...}, "socket": ..., "connections": [...], ..., "crc": "..."}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from shimpy.core.journal import FORMAT, JournalState, read_records, replay
from shimpy.core.journal.lines import NewerJournalError, encode
from shimpy.core.journal.snapshot import snapshot
from shimpy.core.journal.state import boot_id
from shimpy.errors import InvalidArgumentError

# The version of the last line. One that only adds members, which are ignored by who does not know them, stays
# the same.
VERSION: Final = 1

# What it is called in messages.
NAME: Final = "what is handed over"


class HandedOver(NamedTuple):
    """What has been handed over.

    Attributes:
        state: the containers and their processes.
        shim: what else there is; see the module.
    """

    state: JournalState
    shim: Mapping[str, Any]

    def encode(self) -> bytes:
        """Returns it as lines."""
        return b"".join(map(encode, [*snapshot(self.state), {"shim": VERSION, **self.shim}]))

    @classmethod
    def decode(cls, data: bytes) -> HandedOver:
        """Returns what lines come to.

        Raises:
            NewerJournalError: a newer shimpy has written them.
            InvalidArgumentError: they are damaged.
        """
        *lines, shim = read_records(data, NAME) or [{}]
        state = replay(lines)
        if state is None or not isinstance(shim.get("shim"), int):
            raise InvalidArgumentError(f"{NAME} is damaged")
        if shim["shim"] > VERSION:
            raise NewerJournalError(f"{NAME} is of version {shim['shim']}; this shimpy knows {VERSION}")
        return cls(state, shim)


def new_state(path: str) -> JournalState:
    """Returns the state of a shim that has no container.

    Args:
        path: of its socket.
    """
    header = {"journal": FORMAT, "boot": boot_id(), "uid": os.geteuid(), "socket": path, "marker": ""}
    return JournalState(header)
