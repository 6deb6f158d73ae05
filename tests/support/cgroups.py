"""Cgroups of the tests' own, and plain processes in them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from shimpy.core.cgroup.hierarchies import UNIFIED, Hierarchies, StrPath, listed, write
from shimpy.core.cgroup.walk import remove_below, walk

_numbers = itertools.count(1)


def root(controller: str) -> Path:
    """Returns the root of a hierarchy; skips the test where the machine has none."""
    for directory in map(Path, Hierarchies().directories(controller, "/")):
        if (directory / "cgroup.procs").exists():
            return directory
    name = "cgroup2" if controller == UNIFIED else f"version 1 {controller}"
    pytest.skip(f"this machine has no {name} mount")


@contextlib.contextmanager
def scratch(controller: str) -> Iterator[Path]:
    """Makes a cgroup; at the end it is removed with all that runs in it and below."""
    directory = root(controller) / f"shimpy-test-{os.getpid()}-{next(_numbers)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        clear(directory)


def clear(directory: Path) -> None:
    """Thaws, kills and removes a cgroup and what is below."""
    while directory.exists():
        for cgroup in walk(directory):
            write("freezer.state", "THAWED", dir_fd=cgroup)
            write("cgroup.freeze", "0", dir_fd=cgroup)
            for pid in listed(cgroup):
                thaw(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for _ in remove_below(directory):
            pass
        with contextlib.suppress(OSError):
            directory.rmdir()


def thaw(pid: int) -> None:
    """Thaws the cgroup of a process in the freezer's own hierarchy: what is frozen does not die."""
    if frozen := Hierarchies().find(pid, "freezer"):
        write(os.path.join(frozen, "freezer.state"), "THAWED")


class Started:
    """A process that has put itself into cgroups, and said "ready" or something else.

    Args:
        program: Python; it prints one line when it is what the test wants.
        cgroups: where it goes first.
    """

    def __init__(self, program: str, *cgroups: StrPath) -> None:
        enter = "import os, sys, time, signal\n" + "".join(
            f"open({os.path.join(cgroup, 'cgroup.procs')!r}, 'w').write('0')\n" for cgroup in cgroups
        )
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", enter + program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
