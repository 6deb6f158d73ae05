"""By which command line this program is run again, for an upgrade."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shimpy.daemon.containerd.flags import Flags

# The variable of the environment that says which file descriptor has what is handed over.
VARIABLE = "SHIMPY_HANDED_OVER"


def command_line(flags: Flags, program: str = "") -> list[str]:
    """Returns the command line of this program, up to the action.

    An executable is named by its path, so that what is installed there later is run, by its own interpreter.

    Args:
        flags: of the command line.
        program: as which it was started, if that was in another process.
    """
    if program:
        return [os.path.abspath(program), *flags.options]
    if sys.modules["__main__"].__spec__ is None:
        return [os.path.abspath(sys.argv[0]), *flags.options]
    # As a module.
    options = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    return [sys.executable, *options, *flags.options]
