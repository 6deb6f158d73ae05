"""What a successor of this shim must know: a journal on disk, written before anybody is told."""

from shimpy.core.journal.files import JournalDirectory, journal_directories
from shimpy.core.journal.lines import FORMAT, NewerJournalError, read_records
from shimpy.core.journal.replay import replay
from shimpy.core.journal.state import ContainerRecord, JournalState, ProcessRecord
from shimpy.core.journal.writer import Journal, call_token

__all__ = [
    "FORMAT",
    "ContainerRecord",
    "Journal",
    "JournalDirectory",
    "JournalState",
    "NewerJournalError",
    "ProcessRecord",
    "call_token",
    "journal_directories",
    "read_records",
    "replay",
]
