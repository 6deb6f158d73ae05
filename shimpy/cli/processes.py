"""Processes as ps(1) shows them."""

from __future__ import annotations

import os
from typing import NamedTuple


class Shown(NamedTuple):
    """One process.

    Attributes:
        uid: whose it is, as the host numbers.
        pid: as the host numbers it.
        ppid: its parent.
        state: one letter (proc_pid_stat(5)).
        time: CPU time as minutes and seconds.
        command: its command line, or its name in brackets if it has none.
    """

    uid: int
    pid: int
    ppid: int
    state: str
    time: str
    command: str


def describe(pid: int) -> Shown | None:
    """Returns what is to be shown of a process; None if it has ended."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            words = cmdline.read(1 << 16).rstrip(b"\0").replace(b"\0", b" ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may have anything in it, parentheses too.
    first, _, rest = text.rpartition(") ")
    fields = rest.split()
    used = (int(fields[11]) + int(fields[12])) // os.sysconf("SC_CLK_TCK")
    name = first.partition("(")[2]
    # No control character of the container's reaches this terminal.
    command = "".join(c if c.isprintable() else "?" for c in words.decode(errors="replace") or f"[{name}]")
    return Shown(uid, pid, int(fields[1]), fields[0], f"{used // 60}:{used % 60:02}", command)
