"""The lines of a journal: one JSON object each, with a checksum as its last member.

The first line says what the journal is of, and ends as all do:

    {"journal": 1, "boot": "...", "uid": 0, "socket": "/run/web/shim.sock", "marker": "...", "crc": "..."}

Every other line is one of these:

- `{"event": N, "kind": ..., "container": ..., "exec": ..., "pid": ..., "status": ..., "time": ...}`: what
  happened, and that it may be told. N counts up by one. `sequence` counts those of them that subscribers are
  told of. `create` brings `made`, what is known of it; `create`, `exec-added` and `exec-started` bring
  `process`, which is known by the number of that event from then on. `closes` names the intent that this
  commits, `token` the call that asked for it.
- `{"intent": N, "op": ..., "container": ...}`: a call is about to have the runtime do something.
- `{"closed": N}`: the intent N is over, and nothing is left of it.
- `{"exit": N, "status": ..., "time": ...}`: process N was seen to be dead, and may be reaped.
- `{"size": N, "columns": ..., "rows": ...}`: the window size of its terminal.
- `{"forgot": N, "status": ...}`: it is deleted.
- `{"told": N}`: a subscriber has been sent the events up to the sequence number N.
- `{"kept": ...}`: what lines came to that were there before the file was written anew; see `snapshot`.

A file that was cut or damaged is read as far as it can be: a line without a newline at its end was being
written when its shim was killed, a line whose checksum is wrong is left out.
"""

from __future__ import annotations

import binascii
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shimpy.errors import FailedPreconditionError

# The version of the format. One that only adds members or kinds of lines, which are ignored by who does not
# know them, stays the same.
FORMAT: Final = 1

_CRC: Final = b', "crc": "'
_END: Final = b'"}'
# The checksum's eight digits with what is around them.
_TAIL: Final = len(_CRC) + 8 + len(_END)

# What is written down refers to nothing that refers to it.
_to_json: Final = json.JSONEncoder(check_circular=False).encode

_log = logging.getLogger(__name__)

Record = Mapping[str, Any]


class NewerJournalError(FailedPreconditionError):
    """A journal was written by a newer shimpy, and cannot be understood."""


def encode(record: Record) -> bytes:
    """Returns the line of a record, its newline included."""
    text = _to_json(record).encode()[:-1]
    return b"%s%s%08x%s\n" % (text, _CRC, binascii.crc32(text), _END)


def decode(line: bytes) -> Record | None:
    """Returns the record of a line, None if the line is damaged.

    Args:
        line: without its newline.
    """
    text, tail = line[:-_TAIL], line[-_TAIL:]
    if tail != b"%s%08x%s" % (_CRC, binascii.crc32(text), _END):
        return None
    try:
        record = json.loads(text + b"}")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read_records(data: bytes, name: str) -> list[Record]:
    """Returns the records of a journal, its first line as the first of them; none if that is damaged.

    Args:
        data: what the file holds.
        name: of the file, for messages.

    Raises:
        NewerJournalError: it was written by a newer shimpy.
    """
    lines: Sequence[bytes] = data.split(b"\n")
    if lines[-1]:
        _log.warning("%s: the last line was being written when the shim was killed; it is dropped", name)
    found = [decode(line) for line in lines[:-1]]
    damaged = found.count(None)
    header = found[0] if found else None
    if header is None or not isinstance(header.get("journal"), int):
        if data:
            _log.warning("%s: the first line is damaged; nothing can be taken up by it", name)
        return []
    if header["journal"] > FORMAT:
        raise NewerJournalError(
            f"{name} was written by a newer shimpy (format {header['journal']}; this one knows {FORMAT}): "
            "start that one, or remove the file and lose what it knows"
        )
    if damaged:
        _log.warning("%s: %d damaged lines are left out", name, damaged)
    return [record for record in found if record is not None]
