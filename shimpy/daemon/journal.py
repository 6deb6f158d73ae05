"""The journal of `python -m shimpy`: taken over from the shim before, and what is left of it at the end."""

from __future__ import annotations

import logging
import os

from shimpy.core.journal import Journal, JournalDirectory, JournalState, read_records, replay
from shimpy.errors import AlreadyExistsError

_log = logging.getLogger(__name__)


def open_journal(path: str) -> tuple[JournalDirectory, JournalState | None] | None:
    """Takes the journal of a socket over.

    Args:
        path: of the socket, which is this process's.

    Returns:
        Its directory, locked, and what a shim before this one has written since the boot, if there was one;
        None if there can be no journal, with a warning.

    Raises:
        NewerJournalError: the shim before was a newer one.
    """
    directory = JournalDirectory.of_socket(path)
    try:
        directory.make()
        directory.lock()
        state = replay(read_records(directory.read(), directory.journal))
    except (AlreadyExistsError, OSError) as error:
        _log.warning("there is no journal (%s): a shim that is started again takes up nothing", error)
        return None
    except BaseException:
        directory.unlock()
        raise
    if state is not None and not _is_ours(state, directory):
        state = None
    return directory, state


def _is_ours(state: JournalState, directory: JournalDirectory) -> bool:
    if state.header.get("uid") != os.geteuid():
        _log.warning("%s is of another user; it is begun anew", directory.journal)
        return False
    if not state.is_of_this_boot:
        _log.info("%s is of an earlier boot, of which nothing runs; it is begun anew", directory.journal)
        return False
    return True


def close_journal(journal: Journal, directory: JournalDirectory) -> None:
    """Ends a journal; nothing is left of it if nothing is left to be taken up.

    Args:
        journal: the journal.
        directory: its directory.
    """
    journal.close(remove=not (journal.state.containers or directory.is_kept()))
