"""The examples of the documents, whose containers have the names that a reader sees."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

# Not in TMPDIR, of which each run may have another.
_LOCK = Path("/var/tmp/shimpy-test-examples")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Their ids are cgroups of the whole machine's: of two examples, or two runs, one waits."""
    with _LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
