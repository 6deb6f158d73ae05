"""The journal of this shim: each line is in the kernel before anybody is told what it says."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Container
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from shimpy.core.journal.files import JournalDirectory
from shimpy.core.journal.lines import FORMAT, Record, encode
from shimpy.core.journal.replay import apply
from shimpy.core.journal.snapshot import snapshot
from shimpy.core.journal.state import JournalState, boot_id
from shimpy.core.model import ContainerEvent, EventKind

# The token of the call that runs in this context, "" if it has none: it goes into the line that commits it.
call_token: ContextVar[str] = ContextVar("call_token", default="")

# What a call of a client brings about, and so what its token stands for.
_COMMITS: Final = frozenset(
    {
        EventKind.CREATE,
        EventKind.START,
        EventKind.EXEC_STARTED,
        EventKind.PAUSED,
        EventKind.RESUMED,
        EventKind.DELETE,
    }
)

# Bytes after which the file is written anew, if that makes it half as long at least.
_COMPACT: Final = 1 << 20

# Seconds until it is tried again to write to a file system that took no more.
_AGAIN: Final = 5.0

_log = logging.getLogger(__name__)


class Journal:
    """Writes the journal of one socket, and knows what it comes to.

    No call fails because of it, nor waits for a disk: there is no fsync(2), since the end of the machine is
    that of the containers too. A file system that takes no more is one warning; what those lines come to that
    it did not take is written once it takes some again.

    Args:
        directory: of the journal, which this process has locked.
        socket: the path of the shim's socket.
        sequenced: the kinds of events that subscribers are told of.
        state: what the journal of the shim before came to, all of it taken up; None: there is nothing.

    Attributes:
        state: what all lines come to.
        marker: is in the environment of the runtime's commands, where a successor finds them by it.
    """

    def __init__(
        self,
        directory: JournalDirectory,
        socket: str,
        *,
        sequenced: Container[EventKind],
        state: JournalState | None = None,
    ) -> None:
        self._directory = directory
        self._sequenced = sequenced
        header: dict[str, Any] = {
            "journal": FORMAT,
            "boot": boot_id(),
            "uid": os.geteuid(),
            "socket": socket,
            "marker": os.urandom(16).hex() if state is None else state.header.get("marker", ""),
        }
        self.state = state or JournalState(header)
        self.state.header = header
        self._fd = -1
        self._size = 0
        self._compacted = 0
        self._try_again = 0.0
        self._is_broken = False

    @property
    def marker(self) -> str:
        return str(self.state.header["marker"])

    def begin(self) -> None:
        """Writes down what there is, in place of the journal of the shim before."""
        self._rewrite()

    def close(self, *, remove: bool) -> None:
        """Ends it. Idempotent.

        Args:
            remove: with its directory: there is nothing that a successor would have to know.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._try_again = float("inf")
        if remove:
            self._directory.remove()
        self._directory.unlock()

    def event(self, event: ContainerEvent, **more: Any) -> int:
        """Writes down what has happened, and that it may be told; returns its number.

        Args:
            event: what.
            **more: `made`, `process`, `oom`, `closes`; see `lines`.
        """
        record: dict[str, Any] = {
            "event": self.state.last_event + 1,
            "kind": event.kind.value,
            "container": event.container_id,
            "exec": event.exec_id,
            "pid": event.pid,
            "status": event.exit_status,
            "time": event.time,
            **more,
        }
        if event.kind in self._sequenced:
            record["sequence"] = self.state.last_sequence + 1
        if event.kind in _COMMITS and "token" not in more and (token := call_token.get()):
            record["token"] = token
        self.write(record)
        return self.state.last_event

    def intent(self, op: str, container_id: str, **more: Any) -> int:
        """Writes down that a call is about to have the runtime do something; returns the intent's number.

        Args:
            op: create, start, exec, pause or resume.
            container_id: the container.
            **more: what has to be known to undo it.
        """
        record = {"intent": self.state.last_intent + 1, "op": op, "container": container_id, **more}
        if token := call_token.get():
            record["token"] = token
        self.write(record)
        return self.state.last_intent

    def closed(self, intent: int) -> None:
        """Writes down that nothing is left of what a call had begun. Idempotent."""
        if intent in self.state.intents:
            self.write({"closed": intent})

    def forgot(self, number: int, status: int, *, by_call: bool) -> None:
        """Writes down that an exec is deleted.

        Args:
            number: of its event.
            status: what its Delete returns.
            by_call: by the call that runs in this context.
        """
        record: dict[str, Any] = {"forgot": number, "status": status}
        if by_call and (token := call_token.get()):
            record["token"] = token
        self.write(record)

    def told(self, sequence: int) -> None:
        """Writes down that a subscriber has been sent the events up to one."""
        if sequence > self.state.told:
            self.write({"told": sequence})

    def write(self, *records: Record) -> None:
        """Writes lines, all of them or, if this process is killed meanwhile, the first few of them."""
        for record in records:
            apply(self.state, record)
        if self._fd < 0:
            if time.monotonic() >= self._try_again:
                self._rewrite()
            return
        data = b"".join(map(encode, records))
        try:
            complete = os.write(self._fd, data) == len(data)
        except OSError as error:
            self._broke(error)
            return
        if not complete:
            self._broke(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            return
        self._size += len(data)
        if self._size > _COMPACT and self._size > 2 * self._compacted:
            self._rewrite()

    def _rewrite(self) -> None:
        path = self._directory.journal
        new = f"{path}.new"
        try:
            data = b"".join(map(encode, snapshot(self.state)))
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            try:
                _write_all(fd, data)
                os.rename(new, path)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            with suppress(OSError):
                os.unlink(new)
            self._broke(error)
            return
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._size = self._compacted = len(data)
        if self._is_broken:
            _log.info("%s is whole again", path)
            self._is_broken = False

    def _broke(self, error: OSError) -> None:
        if not self._is_broken:
            _log.warning(
                "%s cannot be written (%s); a shim that is started again would not know what happens now",
                self._directory.journal,
                error.strerror or error,
            )
        self._is_broken = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._try_again = time.monotonic() + _AGAIN


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
