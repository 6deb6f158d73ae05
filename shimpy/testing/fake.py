"""The runtime that can be made to go wrong."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shimpy.testing.faults import Fault
from shimpy.testing.shell import COMMANDS, FAULT, SCRIPT, TIMES, Command

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Call(NamedTuple):
    """A command that was given to a fake runtime.

    Attributes:
        command: its word, as "create"; empty where there is none, as in `--version`.
        argv: all arguments after the runtime's own name.
        pid: the process that it was given to.
    """

    command: str
    argv: tuple[str, ...]
    pid: int


class FakeRuntime:
    """A runtime that does what the real one does, except where a fault has been set.

    Faults can be set, changed and cleared at any time, and hold for the commands that come
    after. It is a context manager; without `with`, `close` it.

    Args:
        directory: where a directory is made for the script and what it needs; None for the
            system's temporary directory. It has to be one that programs can be run from.
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
        script.write_bytes(os.fsencode(f"#!/bin/sh\n{head}\n{SCRIPT}"))
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
            # A command that runs at this moment makes files in it by its name, and finds none any more.
            closed = self._directory.rename(f"{self._directory}.closed")
            os.close(self._hold)
            self._hold = -1
            shutil.rmtree(closed)

    def fault(self, command: Command, fault: Fault, *, times: int | None = None) -> None:
        """Makes a command go wrong from now on, in place of any fault set for it before.

        Args:
            command: the command.
            fault: what is to happen.
            times: how often it happens before the command works again, counted by `calls`; None for
                always.

        Raises:
            ValueError: there is no such command.
        """
        if command not in COMMANDS:
            raise ValueError(f"no command that a fault can be set for: {command}")
        script = FAULT.format(script=fault.script())
        if times is not None:
            self._faults += 1
            script += TIMES.format(id=self._faults, times=times)
        self._write(command, script)

    def clear(self, command: Command | None = None) -> None:
        """Makes a command work again.

        What hangs already goes on hanging; see `release`.

        Args:
            command: the command; None for all.
        """
        for each in COMMANDS if command is None else (command,):
            self._write(each, "")

    def release(self) -> None:
        """Lets go on what hangs for ever, of all that is among the `calls` by now."""
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
                break  # it is still being written
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
