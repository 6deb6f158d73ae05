"""How a helper is begun: as a process of its own, from an interpreter that has imported nothing."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Bytes of a process's name, prctl(2) PR_SET_NAME.
_LONGEST_NAME = 15

# Bytes for the command line of what a helper's children are.
_ROOM = 1024


_place: list[int] = []


def command(module: str, *arguments: str) -> list[str]:
    """Returns the command line that runs `main(arguments)` of a module, which returns the exit status.

    The interpreter is this one, by its absolute path; isolated, so that neither the environment nor the
    working directory say what is imported; and without `site`, which takes as long as all the rest. What is
    importable here is importable there, but for import hooks.

    Args:
        module: its full name.
        arguments: what it is told.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    paths = dict.fromkeys([root, *(path for path in sys.path if os.path.isabs(path) and ":" not in path)])
    interpreter = [os.path.abspath(sys.executable), "-I", "-S", os.path.join(here, "__main__.py")]
    return [*interpreter, ":".join(paths), module, *arguments]


def detach(*, log: int | None = None, keep: Sequence[int] = ()) -> None:
    """Lets go of what this process was started with.

    It gets a session of its own, works in `/`, has /dev/null as stdin and stdout and, as stderr, its log;
    every other file descriptor is closed. Idempotent.

    Args:
        log: a file descriptor to write the log to, which is closed; None: it stays what stderr is.
        keep: file descriptors that stay open.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    targets = [0, 1] if log is None else [0, 1, 2]
    for target in targets:
        # One that is kept has been given as stdin, say, and stays there.
        if target not in keep:
            os.dup2(log if target == 2 and log is not None else null, target)
    close_others(keep)


def close_others(keep: Sequence[int]) -> None:
    """Closes every file descriptor but 0, 1, 2 and those that are to be kept."""
    first = 3
    for fd in sorted(fd for fd in set(keep) if fd >= first):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def room_for_a_title() -> str:
    """Returns a last argument for `command` that makes room for a longer title (`set_title`)."""
    return "-" * _ROOM


def set_title(words: Sequence[str]) -> None:
    """Sets what /proc/PID/cmdline holds, as far as there is room where the kernel has put the command line.

    Args:
        words: of the command line.
    """
    import ctypes

    first, last = _command_line()
    if 0 < first < last:
        # The kernel takes a command line that does not end with NUL to go on behind.
        text = b"".join(os.fsencode(word) + b"\0" for word in words)[: last - first - 1]
        ctypes.memmove(first, text.ljust(last - first, b"\0"), last - first)


def _command_line() -> tuple[int, int]:
    """Returns where the kernel has put the command line; a fork has it at the same place."""
    if not _place:
        with open("/proc/self/stat", "rb") as file:
            # The second field, in parentheses, may hold anything; wanted are 48 and 49 (proc_pid_stat(5)).
            fields = file.read().rpartition(b")")[2].split()
        _place.extend(map(int, fields[45:47]))
    return _place[0], _place[1]


def set_name(name: str) -> None:
    """Sets what ps(1) and top(1) show this process as; only the first 15 bytes are shown."""
    with open("/proc/self/comm", "wb", buffering=0) as file:
        file.write(os.fsencode(name)[:_LONGEST_NAME])
