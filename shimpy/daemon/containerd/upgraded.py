"""The new program's side of an upgrade: whether it can go on, and how it does."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import NoReturn

from shimpy.daemon.containerd.daemon import load, run
from shimpy.daemon.containerd.errors import UsageError
from shimpy.daemon.containerd.flags import Flags
from shimpy.daemon.containerd.program import VARIABLE, command_line
from shimpy.daemon.containerd.sockets import Place


def check() -> None:
    """Reads on stdin what is to be handed over, and writes the command line that goes on with it.

    Raises:
        ShimError, KeyError, TypeError, ValueError: it could not.
    """
    load()
    from shimpy.core.recovery.processes import policy_of
    from shimpy.daemon.containerd.handover import HandedOver
    from shimpy.services.task.containers import read_records
    from shimpy.services.task.publisher import read_queue

    with open(0, "rb", closefd=False) as file:
        handed_over = HandedOver.decode(file.read())
    for container in handed_over.state.containers.values():
        for process in (container.init, *container.execs.values()):
            policy_of(process.process)
    read_records(handed_over.shim["records"])
    read_queue(handed_over.shim["events"])
    # Of this interpreter, whatever has started it.
    os.write(1, json.dumps([sys.executable, *sys.orig_argv[1:-1], "upgrade"]).encode())


def go_on(flags: Flags) -> NoReturn:
    """Goes on with what this process had before it became this program, and exits at the end.

    Args:
        flags: of the command line.

    Raises:
        UsageError: nothing was handed over.
    """
    if not (number := os.environ.pop(VARIABLE, "")).isdecimal():
        raise UsageError("upgrade is what a shim does at a SIGHUP")
    with open(int(number), "rb") as file:
        os.set_inheritable(file.fileno(), False)
        data = file.read()
    load()
    from shimpy.daemon.containerd.handover import HandedOver

    handed_over = HandedOver.decode(data)
    shim = handed_over.shim
    fds = {name: int(fd) for name, fd in shim["fds"].items()}
    for fd in fds.values():
        os.set_inheritable(fd, False)
    device, inode, changed = map(int, shim["identity"])
    listener = socket.socket(fileno=fds.pop("listen"))
    status = run(
        Place(listener, handed_over.state.socket, (device, inode, changed)),
        container_id=flags.id,
        namespace=str(shim["namespace"]),
        ttrpc_address=str(shim["ttrpc_address"]),
        debug=bool(shim["debug"]),
        command=command_line(flags),
        before=(handed_over, fds),
    )
    sys.exit(status)
