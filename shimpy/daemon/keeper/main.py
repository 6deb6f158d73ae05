"""The keeper's process; what it is for is said in `shimpy.daemon.keeper`.

Its arguments are its directory, the file descriptor of its lock there, the format of its log, and the command
line of the shim. It is a child subreaper already: that outlives execve(2).
"""

from __future__ import annotations

import fcntl
import os

from shimpy.daemon.helper import begin, log, packets
from shimpy.daemon.helper.loop import HelperLoop
from shimpy.daemon.keeper import notifications
from shimpy.daemon.keeper.become import become
from shimpy.daemon.keeper.children import Children, remembers_exits
from shimpy.daemon.keeper.kept import KeptFds
from shimpy.daemon.keeper.restarts import MOST_FAILURES, Restarts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    import socket as _socket
    from collections.abc import Callable

    from shimpy.daemon.helper.loop import Timer
else:
    import _signal

_NAME = "shimpy.keeper"

_SOCKET = "notify"
_LOCK = "keeper"

# Seconds that a shim has to end when it is asked to; it gives up by itself before that.
_SHUTDOWN = 3.0

# Messages of the shim that are taken before anything else is looked at again.
_AT_ONCE = 64

# The exit status of a process that could not become the shim.
_NOT_STARTED = 127


class Keeper:
    """Keeps one shim.

    Args:
        directory: for its socket, which the shim speaks to it by; ours alone.
        command: the shim's command line.
        json: log as JSON.
        wait_for_leave: see `Children`.
    """

    def __init__(self, directory: str, command: list[str], *, json: bool, wait_for_leave: bool) -> None:
        self._directory = directory
        self._address = os.path.join(directory, _SOCKET)
        self._command = command
        self._json = json
        self._manager = os.environ.pop("NOTIFY_SOCKET", "")
        self._loop = HelperLoop()
        self._kept = KeptFds(track=wait_for_leave)
        self._children = Children(self._kept, wait_for_leave=wait_for_leave)
        self._restarts = Restarts()
        self._receiver = self._listen()
        self._lock = -1
        self._pid = self._pidfd = 0
        self._ready = self._was_ready = self._warned = False
        self._stopping = self._again = False
        self._timer: Timer | None = None
        self._status = 0

    def run(self) -> int:
        """Keeps it until it is told to end, or until that makes no sense any more.

        Returns:
            The exit status.
        """
        self._loop.handle_signal(_signal.SIGTERM, lambda: self._stop(_signal.SIGTERM))
        self._loop.handle_signal(_signal.SIGINT, lambda: self._stop(_signal.SIGINT))
        self._loop.handle_signal(_signal.SIGHUP, self._start_anew)
        self._loop.handle_signal(_signal.SIGCHLD, self._reap)
        self._start()
        self._loop.run()
        self._clean_up()
        return self._status

    def _clean_up(self) -> None:
        """Removes what is the keeper's, and the directory with it, unless there is a journal."""
        for name in (_SOCKET, _LOCK):
            _remove(os.path.join(self._directory, name))
        _remove(self._directory, os.rmdir)

    def _listen(self) -> _socket.socket:
        _remove(self._address)
        receiver = packets.datagrams(self._address)
        receiver.setblocking(False)
        return receiver

    def _start(self) -> None:
        """Starts a shim."""
        self._timer = None
        self._again = False
        try:
            # A shim that was ended by its own pid has removed it with the directory.
            if not os.path.exists(self._address):
                os.makedirs(self._directory, 0o700, exist_ok=True)
                self._receiver = self._listen()
                self._lock = _locked(os.path.join(self._directory, _LOCK))
            pid = self._loop.fork()
        except OSError as error:
            self._say("error", f"the shim cannot be started: {error.filename or 'fork'}: {error.strerror}")
            self._plan(was_ready=False, how=error.strerror or "")
            return
        if pid == 0:
            self._become_the_shim()
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._loop.watch_exit(self._pidfd, self._died)
        self._loop.watch(self._receiver.fileno(), self._receive)

    def _become_the_shim(self) -> None:
        try:
            become(self._command, self._kept, self._address)
        except OSError as error:
            self._say("error", f"{self._command[0]} cannot be run: {error.strerror}")
        finally:
            os._exit(_NOT_STARTED)

    def _receive(self, most: int = _AT_ONCE) -> None:
        for _ in range(most):
            try:
                packet = packets.receive(self._receiver)
            except BlockingIOError:
                return
            except packets.CutPacketError as error:
                self._warn_once(str(error))
                continue
            try:
                # Only the shim itself: not what it has started, nor another program of this user.
                if packet.sender is not None and packet.sender.pid == self._pid:
                    self._heed(packet)
            finally:
                packet.close()

    def _heed(self, packet: packets.Packet) -> None:
        fields = notifications.parse(packet.data)
        if fields.get("FDSTOREREMOVE") == "1":
            self._kept.remove(notifications.fd_name(fields))
            self._reap()
        elif fields.get("FDSTORE") == "1":
            name = notifications.fd_name(fields)
            while packet.fds:
                if not self._kept.add(name, packet.fds.pop(0)):
                    self._warn_once("there is no room for another file descriptor of the shim")
        if fields.get("READY") == "1" and not self._ready:
            self._ready = True
            self._restarts.ready()
            self._reap()
            if not self._was_ready:
                self._was_ready = True
                notifications.tell(self._manager, "READY=1")

    def _reap(self) -> None:
        # Until a shim is ready, nobody knows whose exit status is still to be read.
        if self._ready:
            self._children.reap(but=self._pid)

    def _died(self) -> None:
        """Goes on after the shim's end."""
        # What it has said is still there, and is its own as long as it is not reaped.
        self._receive(1 << 16)
        self._loop.unwatch(self._receiver.fileno())
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        was_ready, self._ready, self._pid = self._ready, False, 0
        if self._timer is not None:
            self._timer.cancel()
        exited = ended is not None and ended.si_code == os.CLD_EXITED
        number = 0 if ended is None else ended.si_status
        how = f"with exit status {number}" if exited else f"of signal {number}"
        if self._stopping:
            self._end(number if exited else 0)
        elif self._again:
            self._start()
        elif exited and not self._was_ready:
            # What it was started with is wrong, and it has said how.
            self._end(number)
        else:
            self._plan(was_ready=was_ready, how=how)

    def _plan(self, *, was_ready: bool, how: str) -> None:
        """Sees to it that another shim is started, at once or after a pause."""
        pause = self._restarts.died(ready=was_ready)
        if pause is None:
            self._say(
                "error",
                f"the shim ended {MOST_FAILURES} times in a row before it was ready, the last time {how}; it "
                "is not started again, a container is left running: mend what is wrong, and start it again",
            )
            self._end(1)
            return
        if was_ready:
            self._say("warning", f"the shim ended {how}; it is started again")
        elif how:
            when = f"in {pause:g} s" if pause else "at once"
            self._say("warning", f"the shim ended {how} before it was ready; it is started again {when}")
        if pause:
            self._timer = self._loop.call_later(pause, self._start)
        else:
            self._start()

    def _stop(self, number: int) -> None:
        """Ends the shim, and then the keeper; SIGTERM or SIGINT. The second one goes to the shim as well."""
        if not self._stopping:
            self._stopping = True
            notifications.tell(self._manager, "STOPPING=1")
        if not self._pid:
            self._end(0)
            return
        self._ask_to_end(number)

    def _start_anew(self) -> None:
        """Has another shim take the place of this one; SIGHUP."""
        if self._stopping:
            return
        self._restarts.forgive()
        if self._pid:
            self._again = True
            self._ask_to_end(_signal.SIGHUP)
        else:
            if self._timer is not None:
                self._timer.cancel()
            self._start()

    def _ask_to_end(self, number: int) -> None:
        _signal.pidfd_send_signal(self._pidfd, number)
        if self._timer is None:
            self._timer = self._loop.call_later(_SHUTDOWN, self._kill)

    def _kill(self) -> None:
        self._say("error", f"the shim did not end within {_SHUTDOWN:g} s; it is killed")
        _signal.pidfd_send_signal(self._pidfd, _signal.SIGKILL)

    def _end(self, status: int) -> None:
        self._status = status
        self._loop.stop()

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            self._say("warning", f"{message}; what is not kept does not outlive the shim")

    def _say(self, level: str, message: str) -> None:
        log.write(level, _NAME, message, json=self._json)


def _remove(path: str, remove: Callable[[str], None] = os.unlink) -> bool:
    try:
        remove(path)
    except OSError:
        return False
    return True


def _locked(path: str) -> int:
    """Opens a file and locks it, for as long as this process lives."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def main(arguments: list[str]) -> int:
    """Is a keeper to its end.

    Args:
        arguments: see the module.

    Returns:
        The exit status.
    """
    directory, lock, style, *command = arguments
    begin.set_name("shimpy-keeper")
    begin.close_others(keep=[int(lock)])
    os.set_inheritable(int(lock), False)
    return Keeper(directory, command, json=style == "json", wait_for_leave=not remembers_exits()).run()
