"""What a runtime's command, and with it the container, is not to inherit from this process."""

from __future__ import annotations

import os
import sys

from shimpy import linux

# What a supervisor told this process about itself. runc takes NOTIFY_SOCKET and LISTEN_FDS as
# meant for the container and would proxy the one and pass on the other.
_PRIVATE_ENVIRONMENT = (
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)

# The variable that has the name of a program's directory (`registry`): by it, what the program has started is
# found when the program is gone, whatever has become of the parents.
PROGRAM = "SHIMPY_PROGRAM"

# The variable that has the marker of a shim's journal: by it, its successor finds the commands under way.
SHIM = "SHIMPY_SHIM"

# What this process adds to the environment of the commands that it starts: PROGRAM, once it has a directory,
# and SHIM, once it has a journal.
mark: dict[str, str] = {}

# As bits of a signal mask.
_IGNORED_BY_PYTHON = sum(1 << number - 1 for number in linux.IGNORED_BY_PYTHON)
_OF_THE_C_LIBRARY = sum(1 << number - 1 for number in linux.SIGNALS_OF_THE_C_LIBRARY)

# Undoes, for the container, what this process inherited or was told about itself. Signals that
# are ignored or blocked stay so across execve(2), and only a program can undo that.
_RESET_SIGNALS = """
import os, signal, sys
for number in signal.valid_signals():
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
os.execvp(sys.argv[1], sys.argv[1:])
"""
_RESET_OOM_SCORE = 'echo 0 2>/dev/null >/proc/self/oom_score_adj; exec "$0" "$@"'


def environment() -> dict[str, str] | None:
    """Returns our environment without what is meant for this process alone, with the program's mark.

    None: that is as it is.
    """
    if not mark and os.environ.keys().isdisjoint(_PRIVATE_ENVIRONMENT):
        return None  # to go through it takes as long as to read a bundle
    return {key: value for key, value in os.environ.items() if key not in _PRIVATE_ENVIRONMENT} | mark


def unmarked() -> dict[str, str]:
    """Returns our environment without the mark of a program that this one was started by, and goes with."""
    return {key: value for key, value in os.environ.items() if key != PROGRAM}


def clean_prefix(*, sets_oom_score: bool = False) -> list[str]:
    """Returns the command that has to stand before the runtime's, so that what it starts begins clean.

    Nothing, in a process whose signals and OOM score are as usual: each of these costs a start of
    its own. File descriptors, umask and the signals that Python itself ignores are the spawn's business.

    Args:
        sets_oom_score: what it starts gets an OOM score of its own, so that it need not be without ours. This
            is what spares a shell to who always says one, as Kubernetes does.
    """
    prefix: list[str] = []
    if _signals_are_off():
        prefix += [sys.executable, "-I", "-S", "-c", _RESET_SIGNALS]
    if not sets_oom_score and _oom_score_adj() != 0:
        prefix += ["/bin/sh", "-c", _RESET_OOM_SCORE]
    return prefix


def _signals_are_off() -> bool:
    """Whether a child of this thread would begin with signals blocked, or ignored by more than Python."""
    lines = linux.read_file("/proc/thread-self/status", at_once=True).split(b"\n")
    masks = dict(line.split(b":\t") for line in lines if line.startswith((b"SigBlk", b"SigIgn")))
    ignored = int(masks[b"SigIgn"], 16) & ~(_IGNORED_BY_PYTHON | _OF_THE_C_LIBRARY)
    return bool(ignored or int(masks[b"SigBlk"], 16))


def _oom_score_adj() -> int:
    try:
        return int(linux.read_file("/proc/self/oom_score_adj", at_once=True))
    except (OSError, ValueError):
        return 0
