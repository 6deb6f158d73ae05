"""``shimpy …`` for people at a terminal (the extra ``cli``)."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line and returns its exit status."""
    try:
        import typer  # noqa: F401 - the extra may not be installed
    except ModuleNotFoundError:
        sys.stderr.write("shimpy: the command line needs an extra: pip install 'shimpy[cli]'\n")
        return 1
    from shimpy.cli.app import run

    return run(sys.argv[1:])
