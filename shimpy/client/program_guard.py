"""Has what a client makes removed when the program has died."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from shimpy.client.bundle_config import read_config
from shimpy.client.guard import ignore
from shimpy.client.program import program
from shimpy.core.registry import OwnedContainer, ProcessIdentity
from shimpy.core.runtime import find_runtime
from shimpy.core.runtime.spec import check_id
from shimpy.errors import (
    CanceledError,
    DeadlineExceededError,
    InternalError,
    ShimError,
    UnavailableError,
    from_oserror,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from shimpy.core.registry import Entry

# Seconds that a program has to kill what has outlived its time, before its guardian does.
_GRACE = 0.5

# Errors after which it is not certain that the shim has undone the create already.
_UNCERTAIN = (CanceledError, DeadlineExceededError, InternalError, UnavailableError)

_numbers = itertools.count(1)


class ProgramGuard:
    """Has containers and directories removed by the program's guardian; for one client.

    Args:
        runtime: the shim's default runtime.
        root: the runtime's --root; None: its default.
    """

    def __init__(self, runtime: str, root: str | None) -> None:
        self._runtime = runtime
        self._root = root
        self._entries: list[Entry] = []
        self._current: tuple[Entry, OwnedContainer] | None = None

    def make_folder(self) -> str:
        return program.make_folder()

    @contextmanager
    def creating(self, container_id: str, bundle: str, runtime: str) -> Iterator[Callable[[int], None]]:
        try:
            check_id(container_id)
            path = find_runtime(runtime or self._runtime)
            record = OwnedContainer.before(container_id, bundle, read_config(bundle), path, self._root)
        except (ShimError, AttributeError, TypeError):
            # The shim will say what is wrong with it, and make nothing.
            yield ignore
            return
        entry = program.open().container()
        try:
            entry.write(record)
        except OSError as error:
            raise from_oserror(error, f"container {container_id} cannot be written down") from error
        self._entries.append(entry)

        def created(pid: int) -> None:
            self._current = (entry, record.with_init(pid))
            with suppress(OSError):  # it is known without
                entry.write(self._current[1])

        try:
            yield created
        except (*_UNCERTAIN, asyncio.CancelledError):
            raise  # it may be being undone; `release` comes after that
        except ShimError:
            self._remove(entry)
            raise

    def deleted(self, pid: int) -> None:
        if self._current is not None and self._current[1].pid == pid:
            self._remove(self._current[0])
            self._current = None

    @contextmanager
    def kill_at(self, pid: int, end: float) -> Iterator[None]:
        what = self._target(pid)
        if what is None:
            yield
            return
        key = str(next(_numbers))
        program.send(f"{key} {end + _GRACE} {json.dumps(what)}")
        try:
            yield
        finally:
            program.send(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Says that nothing of what the client has made is left, unless `keep` has said otherwise."""
        for entry in list(self._entries):
            self._remove(entry)

    def keep(self) -> None:
        """Leaves what could not be removed for when the program has ended, with its bundle and its ids."""
        if self._current is not None:
            program.kept.add(self._current[1].bundle)
        self._entries.clear()

    def _target(self, pid: int) -> dict[str, Any] | None:
        if self._current is None:
            return None
        container = self._current[1]
        if container.pid == pid:
            return {"cgroups": container.cgroups, "pid": pid, "birth": container.birth, "init": pid}
        return {"pid": pid, "birth": _birth(pid), "init": container.pid}

    def _remove(self, entry: Entry) -> None:
        entry.remove()
        with suppress(ValueError):
            self._entries.remove(entry)


def note_shim(pid: int) -> Entry:
    """Notes a shim that this program's mark does not find, and returns the note.

    Args:
        pid: a process that is there, or a zombie that is not waited for yet.
    """
    entry = program.open().shim()
    with suppress(OSError):  # a shim that is dead needs none; who made it kills it if there is no room
        entry.write(ProcessIdentity.of(pid))
    return entry


def _birth(pid: int) -> int:
    try:
        return ProcessIdentity.of(pid).birth
    except OSError:
        return 0  # it has ended
