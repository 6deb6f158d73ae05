"""What a runtime may do wrong."""

from __future__ import annotations

import json
import os
import shlex
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from shimpy.testing.shell import WORK, letters, printf


def error_line(message: str) -> bytes:
    """Returns the line that a runtime writes to its `--log-format json` log for an error.

    Args:
        message: what the runtime has to say.
    """
    entry = {"level": "error", "msg": message, "time": "2024-01-01T00:00:00Z"}
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


_CONSOLE = os.path.join(os.path.dirname(__file__), "console.py")


class Fault(ABC):
    """One thing that a runtime may do wrong; see the subclasses."""

    @abstractmethod
    def script(self) -> str:
        """Returns the shell code that does it; where that ends, the real runtime takes over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang(Fault):
    """The runtime hangs, or is slow, and then goes on as if nothing had been.

    Attributes:
        seconds: for how long; None for ever, which is until `FakeRuntime.release` or the
            end of the process that made the fake runtime.
        after: do the real work first and hang before saying so.
        ignore_sigterm: SIGTERM does not end it.
        children: how many children hang with it, in its process group, holding its file descriptors
            and ignoring what it ignores. They go on hanging until they are killed or released.
    """

    seconds: float | None = None
    after: bool = False
    ignore_sigterm: bool = False
    children: int = 0

    def script(self) -> str:
        # There is none any more for a command that began before a release and comes here after it. Where its
        # maker has died there is one without a writer, which must not be waited for: so one is there for long
        # enough to open it.
        hold = '"$_fake_directory/hold.$_fake_hold"'
        wait = f"{{ {{ read -r _fake_word <&9; }} 8<>{hold} 9<{hold} 8>&-; }} 2>/dev/null"
        lines = [f"( {wait} ) &"] * self.children
        lines.append(wait if self.seconds is None else f"sleep {self.seconds:f}")
        if self.ignore_sigterm:
            # Not for the real runtime: what is ignored here would be ignored in the container.
            lines = ["trap '' TERM", *lines, "trap - TERM"]
        if self.after:
            lines = [WORK, "_fake_status=$?", *lines, 'exit "$_fake_status"']
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

    def script(self) -> str:
        # No core file in the current directory.
        death = f"ulimit -c 0\nkill -{int(self.signal)} $$"
        return f"{WORK}\n{death}" if self.after else death


@dataclass(frozen=True, slots=True, kw_only=True)
class Fails(Fault):
    """The runtime exits with an error.

    Attributes:
        log: what it adds to the file that `--log` names; `error_line` makes a line as
            it should be, anything else is a log that cannot be read.
        stderr: what it writes to its standard error.
        status: its exit status, 0..255; 0 is a runtime that claims to have succeeded.
        after: do the real work first.
    """

    log: bytes = b""
    stderr: bytes = b""
    status: int = 1
    after: bool = False

    def script(self) -> str:
        return "\n".join(
            [
                *([WORK] if self.after else []),
                f'[ "$_fake_log" ] && {printf(self.log)} >>"$_fake_log"',
                f"{printf(self.stderr)} >&2",
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

    def script(self) -> str:
        return f"{letters(self.stdout)}\n{letters(self.stderr)} >&2"


@dataclass(frozen=True, slots=True)
class PidFile(Fault):
    """The runtime does its work and says that it succeeded, but its pid-file is not as it should be.

    Attributes:
        content: what the pid-file holds; `{pid}` stands for the true pid. None: there is none.
    """

    content: str | None

    def script(self) -> str:
        if self.content is None:
            write = 'rm -f "$_fake_pid_file"'
        else:
            parts = [printf(part.encode()) for part in self.content.split("{pid}")]
            text = '\nprintf %s "$_fake_word"\n'.join(parts)
            write = f'{{\n{text}\n}} >"$_fake_pid_file"'
            if len(parts) > 1:
                write = f'read -r _fake_word <"$_fake_pid_file"\n{write}'
        return f'if [ "$_fake_pid_file" ]; then\n{WORK} || exit\n{write}\nexit 0\nfi'


@dataclass(frozen=True, slots=True)
class Console(Fault):
    """The runtime does its work and says that it succeeded, but hands over no console.

    Without `--console-socket` it does nothing.

    Attributes:
        sends: what reaches the console socket: "no connection", "nothing" (a connection, closed
            at once), "text" (a message without a file descriptor) or "a file" (that is not a terminal).
    """

    sends: Literal["no connection", "nothing", "text", "a file"]

    def script(self) -> str:
        argv = [sys.executable, "-IS", _CONSOLE, self.sends]
        return (
            'if [ "$_fake_console" ] && [ "$_fake_real" ]; then\n'
            f'exec {shlex.join(argv)} "$_fake_directory" "$_fake_console" "$_fake_real" "$@"\nfi'
        )
