"""What a process inherits and would pass on to its children: file descriptors, signals, umask, limits."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

from shimpy import linux

# File descriptors that this process allows itself: a connection takes one, a process up to ten. Not more than
# that, although the hard limit may be a million, because what is raised here is what processes inherit whose
# bundle sets no RLIMIT_NOFILE, and there are programs that visit every file descriptor up to the limit.
_MAX_FILES = 65_536


def open_standard_fds() -> None:
    """Opens /dev/null as each of 0, 1 and 2 that this process was started without.

    Else the next file that is opened gets that number, and what is meant for stderr is written into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # open(2) gives the lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def clean_slate() -> None:
    """Undoes what the process was started with and its children would inherit.

    No signal is blocked, none ignored; the umask is 022. A SIGHUP that was ignored (nohup(1)) still does
    nothing, but by a handler, which execve(2) resets. The soft limit of open files is raised.
    """
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number not in linux.IGNORED_BY_PYTHON:
            signal.signal(number, _nothing if number == signal.SIGHUP else signal.SIG_DFL)
    _reset_signals_of_the_c_library()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    raise_file_limit()


def raise_file_limit() -> None:
    """Raises the soft limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _nothing(_number: int, _frame: object) -> None:
    """Does nothing, unlike the default action."""


def _reset_signals_of_the_c_library() -> None:
    """Sets these to their default, where they are ignored: then the library has no handler of its own.

    make(1) starts its commands with both ignored.
    """
    with open("/proc/thread-self/status", "rb") as file:
        ignored = next(int(line.split()[1], 16) for line in file if line.startswith(b"SigIgn"))
    for number in linux.SIGNALS_OF_THE_C_LIBRARY:
        if ignored >> number - 1 & 1:
            linux.reset_signal(number)
