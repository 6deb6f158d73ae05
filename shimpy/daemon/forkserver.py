"""`python -m shimpy.daemon.forkserver`: a process that has imported all that a shim needs, and forks shims.

It is started by `shimpy.WarmLauncher`, which speaks to it over the socket that is its file descriptor 0. Each
message asks for one shim and brings two file descriptors: the shim's stderr, and a socket for the answer,
which is the shim's pidfd, or the reason why there is none. When the socket is closed, or its owner dies, this
process ends. If that was without a word, it kills the shims that have the mark of their owner, which are not
to outlive it; the others go on.

It never has a second thread nor an event loop, so that what is forked from it is whole, and it holds
nothing of its owner's but that socket.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import signal
import socket
import sys
from typing import NoReturn

from shimpy.daemon import import_stubs
from shimpy.daemon.main import main as shim_main
from shimpy.daemon.process_state import clean_slate

_MAX_MESSAGE = 1 << 16
_CONTROL = 0

# The message of an owner that lives on, and looks after the shims itself.
END = b"end"


def main() -> None:
    """Forks shims until its owner has gone."""
    # Who ignores SIGCHLD has the kernel throw away each child's exit status, and nothing to wait for.
    clean_slate()
    _import_everything()
    control = socket.socket(fileno=_CONTROL)
    poller = select.poll()
    poller.register(_CONTROL, select.POLLIN)
    marked: set[int] = set()
    while True:
        for fd, _ in poller.poll():
            if fd != _CONTROL:
                # One of the shims has ended. Its owner has a pidfd of its own.
                poller.unregister(fd)
                os.waitid(os.P_PIDFD, fd, os.WEXITED)
                os.close(fd)
                marked.discard(fd)
            elif (pidfd := _fork(control, marked)) is None:
                for shim in marked:
                    signal.pidfd_send_signal(shim, signal.SIGKILL)
                return
            elif pidfd >= 0:
                poller.register(pidfd, select.POLLIN)


def _import_everything() -> None:
    with import_stubs.imports():
        import asyncio  # noqa: F401 - for the children

        from shimpy.core.runtime import advisories  # noqa: F401 - for the children
        from shimpy.daemon import serve  # noqa: F401 - for the children

    # What is frozen the collector never touches, so that its pages stay shared.
    gc.collect()
    gc.freeze()


def _fork(control: socket.socket, marked: set[int]) -> int | None:
    """Forks the shim that is asked for next; returns its pidfd, -1 if there is none, None at the end.

    Args:
        control: where it is asked for.
        marked: the pidfds of those that are not to outlive who asked for them; it is added to.
    """
    try:
        # Python makes received file descriptors inheritable unless it is told otherwise.
        message, received, _, _ = socket.recv_fds(control, _MAX_MESSAGE, 2, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    if message == END:
        marked.clear()
        return None
    if not message:
        return None
    stderr, reply = received
    with socket.socket(fileno=reply) as answer:
        try:
            pid = os.fork()
        except OSError as error:
            os.close(stderr)
            answer.send((error.strerror or str(error)).encode())
            return -1
        request = json.loads(message)
        if pid == 0:
            _be_a_shim(stderr, **request)
        os.close(stderr)
        # Only this process waits for it, so it exists, as a zombie at least.
        pidfd = os.pidfd_open(pid)
        if request.get("mark"):
            marked.add(pidfd)
        try:
            socket.send_fds(answer, [str(pid).encode()], [pidfd])
        except OSError:
            # The client has gone in the meantime.
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return pidfd


def _be_a_shim(
    stderr: int, *, options: list[str], notify: str, mark: dict[str, str] | None = None
) -> NoReturn:
    """Lets go of all that is the warm process's, and is a shim to its end."""
    status = 1
    try:
        os.setsid()
        os.dup2(stderr, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), _CONTROL)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.update(mark or {}, NOTIFY_SOCKET=notify)
        status = shim_main(options)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing may get back into the warm process's own code
        sys.excepthook(*sys.exc_info())
    finally:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
