"""Upgrades of shims under containerd, to programs of the test's own."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.support.containerd import Containerd
from tests.support.leaks import eventually

# The line of the command's script with which it is Python's.
_PYTHON = "import sys\n"


class Installed:
    """The command of a containerd's shims, which a test may change.

    Args:
        containerd: whose it is.
        directory: for what holds an upgrade up.
    """

    def __init__(self, containerd: Containerd, directory: Path) -> None:
        self._containerd = containerd
        self._path = Path(containerd.shim)
        self._text = self._path.read_text()
        self._gate = directory / "gate"

    @property
    def upgrades(self) -> int:
        """How many shims of the containerd have been upgraded."""
        return self._containerd.log.read_text(errors="replace").count(" upgraded, with ")

    @property
    def refusals(self) -> list[str]:
        """Why others have not."""
        lines = self._containerd.log.read_text(errors="replace").splitlines()
        return [line.partition("is not upgraded: ")[2] for line in lines if "is not upgraded: " in line]

    async def upgrade(self, pid: int) -> None:
        """Upgrades a shim, and returns once it goes on."""
        before = self.upgrades
        os.kill(pid, signal.SIGHUP)
        await eventually(lambda: self.upgrades > before, within=30)

    async def refused(self, pid: int) -> str:
        """Has a shim refuse to be upgraded, and returns why."""
        before = len(self.refusals)
        os.kill(pid, signal.SIGHUP)
        await eventually(lambda: len(self.refusals) > before, within=30)
        return self.refusals[-1]

    def change(self, old: str, new: str) -> None:
        """Installs a changed command."""
        assert old in self._text
        self._write(self._text.replace(old, new))

    @contextlib.contextmanager
    def held_up(self, pid: int) -> Iterator[None]:
        """Upgrades a shim, whose process is held up between the old program and the new one.

        Args:
            pid: the shim. At the end of the block it goes on.
        """
        os.mkfifo(self._gate)
        wait = f"if sys.argv[-1] == 'upgrade': open({str(self._gate)!r}).readline()"
        self.change(_PYTHON, f"{_PYTHON}{wait}\n")
        before = self.upgrades
        os.kill(pid, signal.SIGHUP)
        # The program that the shim has become opens it for reading.
        with self._gate.open("w") as gate:
            yield
            gate.write("\n")
        assert self.upgrades == before

    def restore(self) -> None:
        """Installs what was installed first."""
        self._write(self._text)

    def _write(self, text: str) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o755)
        new.rename(self._path)
