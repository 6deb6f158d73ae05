"""An OCI runtime that can be made to go wrong, for tests of shimpy and of what embeds it.

A :class:`FakeRuntime` is an executable on disk that stands in front of a real runtime. It is
what ``CreateRequest.runtime`` names, it notes each command that it is given, and it hands the
command on unchanged unless a fault has been set for it::

    with FakeRuntime() as fake:
        await shim.create(CreateRequest(id="web", bundle=bundle, runtime=fake.path))
        fake.fault("exec", Fails(log=error_line("no space left on device")))
        ...
        assert [call.command for call in fake.calls] == ["create", "exec"]

It is a POSIX shell script that runs nothing but builtins and then becomes the real runtime by
exec, so it costs about a millisecond.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = [
    "COMMANDS",
    "Call",
    "Command",
    "Console",
    "Fails",
    "FakeRuntime",
    "Fault",
    "Hang",
    "PidFile",
    "Prints",
    "Signalled",
    "error_line",
]

Command = Literal["create", "start", "exec", "pause", "resume", "kill", "delete", "state"]
"""A command of a runtime that a fault can be set for."""

COMMANDS: Final[tuple[Command, ...]] = get_args(Command)
"""Every command that a fault can be set for."""


def error_line(message: str) -> bytes:
    """Returns the line that a runtime writes to its ``--log-format json`` log for an error.

    Args:
        message: what the runtime has to say.
    """
    entry = {"level": "error", "msg": message, "time": "2024-01-01T00:00:00Z"}
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


class Fault(ABC):
    """One thing that a runtime may do wrong; see the subclasses."""

    @abstractmethod
    def _script(self) -> str:
        """Returns the shell code that does it; where that ends, the real runtime takes over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang(Fault):
    """The runtime hangs, or is slow, and then goes on as if nothing had been.

    Attributes:
        seconds: for how long; None for ever, which is until :meth:`FakeRuntime.release` or the
            end of the process that made the fake runtime.
        after: do the real work first and hang before saying so.
        ignore_sigterm: SIGTERM does not end it.
        children: how many children hang with it, in its process group, holding its descriptors
            and ignoring what it ignores. They go on hanging until they are killed or released.
    """

    seconds: float | None = None
    after: bool = False
    ignore_sigterm: bool = False
    children: int = 0

    def _script(self) -> str:
        # There is none any more for a command that began before a release and comes here after it.
        wait = '{ read -r _fake_word <"$_fake_directory/hold.$_fake_hold"; } 2>/dev/null'
        lines = [f"( {wait} ) &"] * self.children
        lines.append(wait if self.seconds is None else f"sleep {self.seconds:f}")
        if self.ignore_sigterm:
            # Not for the real runtime: what is ignored here would be ignored in the container.
            lines = ["trap '' TERM", *lines, "trap - TERM"]
        if self.after:
            lines = [_WORK, "_fake_status=$?", *lines, 'exit "$_fake_status"']
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Signalled(Fault):
    """The runtime dies by a signal.

    Attributes:
        signal: the number of the signal; SIGSTOP makes it stop instead.
        after: do the real work first.
    """

    signal: int
    after: bool = False

    def _script(self) -> str:
        # No core file in the folder of whoever runs the tests.
        death = f"ulimit -c 0\nkill -{int(self.signal)} $$"
        return f"{_WORK}\n{death}" if self.after else death


@dataclass(frozen=True, slots=True, kw_only=True)
class Fails(Fault):
    """The runtime exits with an error.

    Attributes:
        log: what it adds to the file that ``--log`` names; :func:`error_line` makes a line as
            it should be, anything else is a log that cannot be read.
        stderr: what it writes to its standard error.
        status: its exit status, 0..255; 0 is a runtime that claims to have succeeded.
        after: do the real work first.
    """

    log: bytes = b""
    stderr: bytes = b""
    status: int = 1
    after: bool = False

    def _script(self) -> str:
        return "\n".join(
            [
                *([_WORK] if self.after else []),
                f'[ "$_fake_log" ] && {_printf(self.log)} >>"$_fake_log"',
                f"{_printf(self.stderr)} >&2",
                f"exit {self.status}",
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prints(Fault):
    """The runtime prints a lot and then does its work.

    Attributes:
        stdout: how much it writes to its standard output, in bytes.
        stderr: how much it writes to its standard error, in bytes.
    """

    stdout: int = 0
    stderr: int = 0

    def _script(self) -> str:
        return f"{_letters(self.stdout)}\n{_letters(self.stderr)} >&2"


@dataclass(frozen=True, slots=True)
class PidFile(Fault):
    """The runtime does its work and says that it succeeded, but its pid-file is not as it should be.

    Attributes:
        content: what the pid-file holds; ``{pid}`` stands for the true pid. None: there is none.
    """

    content: str | None

    def _script(self) -> str:
        if self.content is None:
            write = 'rm -f "$_fake_pid_file"'
        else:
            parts = [_printf(part.encode()) for part in self.content.split("{pid}")]
            text = '\nprintf %s "$_fake_word"\n'.join(parts)
            write = f'{{\n{text}\n}} >"$_fake_pid_file"'
            if len(parts) > 1:
                write = f'read -r _fake_word <"$_fake_pid_file"\n{write}'
        return f'if [ "$_fake_pid_file" ]; then\n{_WORK} || exit\n{write}\nexit 0\nfi'


@dataclass(frozen=True, slots=True)
class Console(Fault):
    """The runtime does its work and says that it succeeded, but hands over no console.

    Without ``--console-socket`` it does nothing.

    Attributes:
        sends: what reaches the console socket: "no connection", "nothing" (a connection, closed
            at once), "text" (a message without a descriptor) or "a file" (that is no terminal).
    """

    sends: Literal["no connection", "nothing", "text", "a file"]

    def _script(self) -> str:
        argv = [sys.executable, "-ISc", _CONSOLE, self.sends]
        return (
            'if [ "$_fake_console" ] && [ "$_fake_real" ]; then\n'
            f'exec {shlex.join(argv)} "$_fake_directory" "$_fake_console" "$_fake_real" "$@"\nfi'
        )


class Call(NamedTuple):
    """A command that was given to a fake runtime.

    Attributes:
        command: its word, as "create"; empty where there is none, as in ``--version``.
        argv: all arguments after the runtime's own name.
        pid: the process that it was given to.
    """

    command: str
    argv: tuple[str, ...]
    pid: int


class FakeRuntime:
    """A runtime that does what the real one does, except where a fault has been set.

    Faults can be set, changed and cleared at any time, and hold for the commands that come
    after. It is a context manager; without ``with``, :meth:`close` it.

    Args:
        directory: where a folder is made for the script and what it needs; None for the
            system's temporary folder. It has to be one that programs can be run from.
        real: the runtime behind it, a name on PATH or a path; None for none, so that a command
            for which no fault is set succeeds and does nothing.

    Attributes:
        path: the absolute path of the executable, which has the name of the real one.

    Raises:
        FileNotFoundError: there is no such runtime.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None, *, real: str | None = "runc") -> None:
        behind = ""
        if real is not None:
            found = shutil.which(real)
            if found is None:
                raise FileNotFoundError(f"no such runtime: {real}")
            behind = os.path.abspath(found)
        self._directory = Path(tempfile.mkdtemp(prefix="fake-runtime-", dir=directory)).absolute()
        self._faults = 0
        self._holds = 0
        self._hold = self._new_hold()
        for command in COMMANDS:
            self._write(command, "")
        self._calls = self._directory / "calls"
        self._calls.touch()
        # By this name shimpy knows where the runtime keeps its state.
        script = self._directory / "bin" / (os.path.basename(behind) or "runtime")
        script.parent.mkdir()
        head = f"_fake_directory={shlex.quote(str(self._directory))}\n_fake_real={shlex.quote(behind)}"
        script.write_bytes(os.fsencode(f"#!/bin/sh\n{head}\n{_SCRIPT}"))
        script.chmod(0o700)
        self.path = str(script)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go what hangs and removes the executable and all that belongs to it."""
        if self._hold >= 0:
            shutil.rmtree(self._directory)
            os.close(self._hold)
            self._hold = -1

    def fault(self, command: Command, fault: Fault, *, times: int | None = None) -> None:
        """Makes a command go wrong from now on, in place of any fault set for it before.

        Args:
            command: the command.
            fault: what is to happen.
            times: how often it happens before the command works again; None for always.

        Raises:
            ValueError: there is no such command.
        """
        if command not in COMMANDS:
            raise ValueError(f"no command that a fault can be set for: {command}")
        script = fault._script()
        if times is not None:
            self._faults += 1
            script = _TIMES.format(id=self._faults, times=times, script=script)
        self._write(command, script)

    def clear(self, command: Command | None = None) -> None:
        """Makes a command work again.

        What hangs already goes on hanging; see :meth:`release`.

        Args:
            command: the command; None for all.
        """
        for each in COMMANDS if command is None else (command,):
            self._write(each, "")

    def release(self) -> None:
        """Lets go on what hangs for ever, of all that is among the :attr:`calls` by now."""
        hold, number = self._hold, self._holds
        self._hold = self._new_hold()
        os.unlink(self._directory / f"hold.{number}")
        os.close(hold)

    @property
    def calls(self) -> list[Call]:
        """The commands that it was given until now, in the order in which they began."""
        words = [os.fsdecode(word) for word in self._calls.read_bytes().split(b"\0")[:-1]]
        found: list[Call] = []
        at = 0
        while at + 3 <= len(words):
            end = at + 3 + int(words[at + 2])
            if end > len(words):
                break  # It is just being written.
            found.append(Call(words[at], tuple(words[at + 3 : end]), int(words[at + 1])))
            at = end
        return found

    def _new_hold(self) -> int:
        """Makes a FIFO that what begins from now on and hangs reads, until this end is closed.

        The kernel closes it when this process dies in whatever way, so nothing hangs longer.
        """
        self._holds += 1
        path = self._directory / f"hold.{self._holds}"
        os.mkfifo(path, 0o600)
        end = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._write("hold", str(self._holds))
        return end

    def _write(self, name: str, text: str) -> None:
        # A command that starts at this moment reads the old file or the new one, never half.
        new = self._directory / f"{name}.new"
        new.write_bytes(os.fsencode(text + "\n"))
        new.rename(self._directory / name)


_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:{}_/")


def _printf(data: bytes) -> str:
    """Returns the shell command that writes these bytes, whatever they are."""
    text = "".join(chr(byte) if byte in _SAFE else f"\\{byte:03o}" for byte in data)
    return f"printf '{text}'"


def _letters(count: int) -> str:
    """Returns the shell command that writes so many bytes, in lines."""
    return f"yes {'x' * 63} | head -c {count}"


_WORK: Final = '_fake_work "$@"'

# Each name begins with _fake_ because to assign to a variable that is in the environment is to
# change what the real runtime sees. `true` with a redirection is how a shell without a fork asks
# for O_CREAT | O_EXCL, so that of commands which run side by side each takes one turn.
_TIMES: Final = """\
_fake_turn=0
_fake_hit=
set -C
while [ -z "$_fake_hit" ] && [ "$_fake_turn" -lt {times} ]; do
    _fake_turn=$((_fake_turn + 1))
    {{ true >"$_fake_directory/turn.{id}.$_fake_turn"; }} 2>/dev/null && _fake_hit=1
done
set +C
if [ "$_fake_hit" ]; then
{script}
fi
"""

_SCRIPT: Final = r"""
_fake_work() {
    if [ "$_fake_real" ]; then "$_fake_real" "$@"; fi
}

_fake_command=
_fake_log=
_fake_pid_file=
_fake_console=
_fake_option=
_fake_take() {
    case $_fake_option in
        log) _fake_log=$1 ;;
        pid-file) _fake_pid_file=$1 ;;
        console-socket) _fake_console=$1 ;;
    esac
    _fake_option=
}
for _fake_word do
    if [ "$_fake_option" ]; then
        _fake_take "$_fake_word"
        continue
    fi
    case $_fake_word in
        -*)
            _fake_option=${_fake_word#-}
            _fake_option=${_fake_option#-}
            case $_fake_option in
                *=*)
                    _fake_value=${_fake_option#*=}
                    _fake_option=${_fake_option%%=*}
                    _fake_take "$_fake_value" ;;
                root | log | log-format | log-level | criu | rootless | cgroup-manager | \
                bundle | b | pid-file | console-socket | preserve-fds | \
                process | p | cgroup | cwd | env | e | user | u | additional-gids | g | \
                process-label | apparmor | cap | c) ;;
                *) _fake_option= ;;
            esac ;;
        *) [ "$_fake_command" ] || _fake_command=$_fake_word ;;
    esac
done

# Before the call is noted, so that a release reaches all calls that have been.
read -r _fake_hold <"$_fake_directory/hold"
printf '%s\0' "$_fake_command" $$ $# "$@" >>"$_fake_directory/calls"
case $_fake_command in
    create | start | exec | pause | resume | kill | delete | state)
        . "$_fake_directory/$_fake_command" ;;
esac
[ "$_fake_real" ] || exit 0
exec "$_fake_real" "$@"
"""

# What a shell cannot do. The real runtime is given a console socket of this program's own,
# reached through /proc because the folder's path may be longer than a socket's may.
_CONSOLE: Final = """\
import os, socket, subprocess, sys
sends, directory, theirs, real, *argv = sys.argv[1:]
folder = os.open(directory, os.O_PATH)
ours = f"/proc/{os.getpid()}/fd/{folder}/console.{os.getpid()}"
listener = socket.socket(socket.AF_UNIX)
listener.bind(ours)
listener.listen()
argv = [
    ours if word == theirs else f"--console-socket={ours}" if word == f"--console-socket={theirs}"
    else word
    for word in argv
]
status = subprocess.run([real, *argv], check=False).returncode
if status == 0 and sends != "no connection":
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(theirs)
        if sends == "text":
            connection.sendall(b"/dev/ptmx")
        elif sends == "a file":
            socket.send_fds(connection, [b"/dev/ptmx"], [os.open("/dev/null", os.O_RDWR)])
sys.exit(status if status >= 0 else 1)
"""
