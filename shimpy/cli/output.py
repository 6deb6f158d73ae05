"""What the commands print: tables and colour for people, JSON for programs, plain text in a pipe."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

_STYLES = {
    "RUNNING": "green",
    "CREATED": "cyan",
    "PAUSED": "yellow",
    "STOPPED": "dim",
    "CREATE": "cyan",
    "START": "green",
    "EXEC_ADDED": "green",
    "EXIT": "dim",
    "OOM": "bold red",
    "running": "green",
    "created": "cyan",
    "orphaned": "yellow",
    "stale": "dim",
}


def line(*fields: object) -> None:
    """Prints one line: in colour on a terminal (unless NO_COLOR is set), else separated by tabs."""
    if _is_for_people(sys.stdout):
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False, soft_wrap=True)
        *first, last = (Text(str(field), _STYLES.get(str(field), "")) for field in fields)
        for text in first:
            text.pad_right(max(0, 10 - len(text)))
        console.print(*first, last)
    else:
        sys.stdout.write("\t".join(str(field) for field in fields) + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows, under their headings on a terminal, else separated by tabs."""
    if not _is_for_people(sys.stdout):
        for row in rows:
            line(*row)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    drawn = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        drawn.add_row(*(Text(str(field), _STYLES.get(str(field), "")) for field in row))
    console.print(drawn)


def as_json(value: Any) -> None:
    """Prints one JSON value on a line of its own."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def complain(message: str) -> None:
    """Says on stderr what went wrong, in one line; if that cannot be written, the exit status has to do."""
    text = " ".join(message.split())
    try:
        if _is_for_people(sys.stderr):
            from rich.console import Console
            from rich.text import Text

            console = Console(stderr=True, highlight=False, soft_wrap=True)
            console.print(Text("shimpy: ", "bold red"), Text(text), sep="")
        else:
            sys.stderr.write(f"shimpy: {text}\n")
            sys.stderr.flush()
    except (OSError, SystemExit):  # the second is how rich takes a closed pipe
        discard(sys.stderr)


def _is_for_people(stream: TextIO) -> bool:
    """Returns whether colour is wanted there; only then is what prints it imported."""
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR"))


def discard(stream: TextIO) -> None:
    """Sends what is still to be written there to nowhere: the flush at exit would fail once again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
