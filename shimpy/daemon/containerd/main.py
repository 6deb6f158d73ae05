"""The command `containerd-shim-shimpy-v2`."""

from __future__ import annotations

import os
import sys

from shimpy.daemon.containerd.errors import CommandError, UsageError
from shimpy.daemon.containerd.flags import Flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Does what containerd asks on the command line, and returns the exit status.

    A failure is one line on stderr, which containerd shows to its client.
    """
    _open_standard_descriptors()
    program = sys.argv[0]
    return report(program, lambda: _act(Flags(sys.argv[1:]), program))


def report(program: str, action: Callable[[], None]) -> int:
    """Does something, and returns the exit status.

    Args:
        program: whose failure it is, on stderr.
        action: what to do.
    """
    try:
        action()
    except CommandError as error:
        return _complain(program, str(error), 2 if isinstance(error, UsageError) else 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(program, f"{where}{error.strerror or error}", 1)
    except Exception as error:
        from shimpy.errors import ShimError  # of what was imported late

        if not isinstance(error, ShimError):
            raise
        return _complain(program, str(error), 1)
    return 0


def _act(flags: Flags, program: str) -> None:
    if flags.version:
        from shimpy.daemon.version import version

        line = f"{os.path.basename(program)}: shimpy {version()}, Python {sys.version.split()[0]}\n"
        os.write(1, line.encode())
    elif flags.info:
        from shimpy.daemon.containerd.info import print_info

        print_info(program)
    elif flags.action == "start":
        flags.check_names()
        from shimpy.daemon.containerd.fork_begin import begin_server
        from shimpy.daemon.containerd.start import start

        begin_server()

        start(flags)
    elif flags.action == "delete":
        flags.check_names()
        from shimpy.daemon.containerd.delete import delete

        delete(flags)
    elif flags.action == "check":
        from shimpy.daemon.containerd.upgraded import check

        check()
    elif flags.action == "upgrade":
        from shimpy.daemon.containerd.upgraded import go_on

        go_on(flags)
    elif flags.action == "fork-server":
        _exec_fork_server()
    else:
        raise UsageError(f"{flags.action!r} is neither start nor delete; containerd calls this program")


def _exec_fork_server() -> None:
    """Becomes a fork server, as a systemd unit wants it.

    Raises:
        UsageError: systemd has not passed the FIFO.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise UsageError("fork-server is for a systemd unit with ListenFIFO; else `start` begins one itself")
    from shimpy.daemon.helper import begin

    command = begin.command("shimpy.daemon.containerd.fork_server", begin.room_for_a_title())
    os.execv(command[0], command)


def _complain(program: str, message: str, status: int) -> int:
    line = f"{os.path.basename(program)}: {' '.join(message.split())}\n"
    os.write(2, line.encode(errors="backslashreplace"))
    return status


def _open_standard_descriptors() -> None:
    """Opens /dev/null as each of 0, 1 and 2 that this process was started without.

    Else the socket might become one of them.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(fd)
