"""`shimpy …` for people at a terminal (the extra `cli`)."""

from __future__ import annotations

import os
import signal
import sys

from shimpy.daemon import import_stubs
from shimpy.daemon.process_state import clean_slate, open_standard_fds

# What shells ignore for a program in the background, and nohup(1) for one that is to outlive its terminal.
_STAY_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def main() -> int:
    """Runs the command line and returns its exit status."""
    _prepare()
    with import_stubs.imports():
        import asyncio  # noqa: F401 - the loop that all commands run in; none of them needs TLS
    try:
        import typer  # noqa: F401 - only to see whether the extra is there
    except ModuleNotFoundError:
        sys.stderr.write("shimpy: the command line needs an extra: pip install 'shimpy[cli]'\n")
        return 1
    from shimpy.cli.app import run

    return run(sys.argv[1:])


def _prepare() -> None:
    """Undoes what the process was started with and trips over; what was meant for it stays."""
    open_standard_fds()
    # Python has None where it was started without one.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as stdin
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as stdin
    ignored = [number for number in _STAY_IGNORED if signal.getsignal(number) is signal.SIG_IGN]
    umask = os.umask(0o022)
    clean_slate()
    os.umask(umask)  # bundles are the user's own files
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    if signal.SIGINT not in ignored:  # until there is something to put right; Python would show where it was
        signal.signal(signal.SIGINT, signal.SIG_DFL)
