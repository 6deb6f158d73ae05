"""A shim that is killed again and again, and the process that holds what it would lose.

`python -m tests.support.mortal SOCKET ADDRESS` reads a line for each shim that it is to start: when that is
to be killed, as JSON. It says on its stdout when the shim has ended. ADDRESS is that of its store; `-`: there
is none.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from shimpy import linux
from shimpy.core.journal import JournalDirectory

_FIRST = 3


class Plan:
    """Kills this process at one of the moments at which its journal or store is written.

    Args:
        at: the number of the moment, from 1 on; 0: never.
        how: before it, after it, or, of the journal, with half of the line written.
    """

    def __init__(self, at: int, how: str) -> None:
        self._at = at
        self._how = how
        self._count = 0

    def install(self) -> None:
        """Has the plan carried out in this process."""
        from shimpy.core.journal import writer
        from shimpy.daemon.notify import ManagerStore

        write, send = os.write, ManagerStore._send

        def journal_write(fd: int, data: Any) -> int:
            half = data[: len(data) // 2]
            return int(self._around(lambda: write(fd, data), lambda: write(fd, half)))

        def store_send(store: ManagerStore, message: str, fd: int = -1) -> bool:
            return bool(self._around(lambda: send(store, message, fd), lambda: None))

        class Os:
            write = staticmethod(journal_write)

            def __getattr__(self, name: str) -> Any:
                return getattr(os, name)

        vars(writer)["os"] = Os()
        setattr(ManagerStore, "_send", store_send)  # noqa: B010 - a method is not assigned

    def _around(self, act: Callable[[], Any], half: Callable[[], Any]) -> Any:
        self._count += 1
        if self._count != self._at:
            return act()
        if self._how == "half":
            half()
        elif self._how == "after":
            act()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Keeper:
    """Starts shims, and holds their file descriptors."""

    def __init__(self, path: str, address: str) -> None:
        self._path = path
        self._address = "" if address == "-" else address
        self._fds: dict[str, int] = {}
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if self._address:
            self._notify.bind(self._address)

    def run(self) -> None:
        """Does it until its stdin ends."""
        poll = select.poll()
        poll.register(self._notify, select.POLLIN)
        poll.register(0, select.POLLIN)
        if not self._address:
            # Who else would adopt the dead shim's children, and reap them when, is chance.
            linux.set_child_subreaper(True)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        shim = -1
        stdin = open(0, "rb", buffering=0)  # noqa: SIM115 - it goes with this process
        while True:
            ready = {fd for fd, _ in poll.poll()}
            self._receive()
            if shim in ready:
                self._receive()  # what it has said is there, now that it is dead
                poll.unregister(shim)
                _reap(shim)
                os.close(shim)
                shim = -1
                sys.stdout.write(f"{json.dumps(sorted(self._fds))}\n")
                sys.stdout.flush()
            if 0 in ready:
                if not (line := stdin.readline()):
                    break
                pid = self._start(json.loads(line))
                shim = os.pidfd_open(pid)
                poll.register(shim, select.POLLIN)
                sys.stdout.write(f"{pid}\n")
                sys.stdout.flush()
        if shim >= 0:
            signal.pidfd_send_signal(shim, signal.SIGTERM)
            _reap(shim)

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while self._address:
                message, fds, _, _ = socket.recv_fds(self._notify, 4096, 8, socket.MSG_CMSG_CLOEXEC)
                fields = dict(line.partition("=")[::2] for line in message.decode().split("\n"))
                name = fields.get("FDNAME", "")
                if fields.get("FDSTORE") == "1" and name not in self._fds:
                    self._fds[name] = fds.pop()
                elif fields.get("FDSTOREREMOVE") == "1" and name in self._fds:
                    os.close(self._fds.pop(name))
                for fd in fds:
                    os.close(fd)

    def _start(self, plan: dict[str, Any]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(2, 1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            import fcntl

            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 1000) for fd in self._fds.values()]
            os.closerange(_FIRST, 1000)
            for number, fd in enumerate(high, _FIRST):
                os.dup2(fd, number)
            os.closerange(1000, 3000)
            if self._address:
                os.environ["NOTIFY_SOCKET"] = self._address
            os.environ.update(
                LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(self._fds)
            )
            Plan(**plan).install()
            from shimpy.daemon.main import main

            os._exit(main(["--socket", self._path, "--log-level", "warning"]))
        except BaseException:  # noqa: BLE001 - nothing may get back into the keeper's own code
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)


def _reap(pidfd: int) -> None:
    """Waits for a child to end; where SIGCHLD is ignored the kernel reaps it."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


class MortalShim:
    """The process above, from the side of a test.

    Args:
        directory: for the socket of the shim, and the log.
        stores: whether there is a store.

    Attributes:
        socket: the path of the shim's socket.
        stored: the names of what was held when the last shim had ended.
    """

    def __init__(self, directory: Path, *, stores: bool) -> None:
        (directory / "systemd").mkdir()
        self.socket = str(directory / "s")
        self.stored: list[str] = []
        self._address = str(directory / "systemd" / "notify") if stores else "-"
        self._log = directory / "log"
        self._process: asyncio.subprocess.Process | None = None
        self._pid = 0

    @property
    def log(self) -> str:
        """What the shims have written to their stderr."""
        return self._log.read_text()

    async def start(self, at: int = 0, how: str = "before") -> None:
        """Starts a shim; the next one once `ended` has returned.

        Args:
            at: see `Plan`.
            how: see `Plan`.
        """
        if self._process is None:
            with self._log.open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "tests.support.mortal",
                    self.socket,
                    self._address,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"at": at, "how": how}).encode() + b"\n")
        self._pid = int(await self._line())

    def kill(self) -> None:
        """Kills the shim."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    async def ended(self) -> None:
        """Returns when the shim has ended."""
        self.stored = json.loads(await self._line())

    async def aclose(self) -> None:
        """Ends all of it."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()
        JournalDirectory.of_socket(self.socket).remove()

    async def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        return await self._process.stdout.readline()


if __name__ == "__main__":
    from shimpy.daemon import import_stubs

    # What every shim imports: they are forked from here, and begin in a tenth of the time.
    with import_stubs.imports():
        import shimpy.core.recovery.take_up
        import shimpy.daemon.main
        import shimpy.daemon.serve  # noqa: F401 - the last of those that are imported for the shims

    Keeper(*sys.argv[1:]).run()
