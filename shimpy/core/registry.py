"""The register of what programs run on this machine without a socket: a directory for each program.

A program that makes containers has one below `tempdirs.base()`, with a file for each container and with all
temporary directories of it, so that whoever comes after it can remove them: its guardian, or `shimpy prune`.
It is locked for as long as the program or its guardian lives (flock(2)).

The directory's name is also in the environment of each command and shim that the program starts
(`runtime.environment.PROGRAM`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from shimpy.core import tempdirs
from shimpy.core.cgroup.cleanup import leftover_paths
from shimpy.core.reaper.procfs import start_time

_PREFIX: Final = "program-"
_NAME: Final = re.compile("program-[0-9a-f]{16}")
_OWNER: Final = "owner"
_CONTAINERS: Final = "containers"
_SHIMS: Final = "shims"


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one of the same pid.

    Attributes:
        pid: its number.
        birth: when it was started, in clock ticks since the boot (proc_pid_stat(5)).
    """

    pid: int
    birth: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Returns the record of a process that is there.

        Raises:
            OSError: it is not.
        """
        return cls(pid, start_time(pid))

    def exists(self) -> bool:
        """Returns whether the process is there, running or a zombie."""
        pidfd = self.open()
        if pidfd is not None:
            os.close(pidfd)
        return pidfd is not None

    def open(self) -> int | None:
        """Returns a pidfd of the process, None if it has been reaped."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        try:
            same = start_time(self.pid) == self.birth
        except OSError:
            same = False
        if not same:
            os.close(pidfd)
            return None
        return pidfd


@dataclass(frozen=True, slots=True)
class OwnedContainer:
    """What has to be known of a container to remove it.

    Attributes:
        id: its id.
        bundle: the absolute path of its bundle.
        runtime: the absolute path of its runtime.
        root: the runtime's --root; None: its default.
        cgroups: the directories of the cgroups that its create makes.
        above: directories of cgroups above those that were not there before, the deepest first.
        pid: its init; 0 as long as it is being created.
        birth: when that was started, see `ProcessIdentity`.
    """

    id: str
    bundle: str
    runtime: str
    root: str | None
    cgroups: tuple[str, ...]
    above: tuple[str, ...]
    pid: int = 0
    birth: int = 0

    def with_init(self, pid: int) -> OwnedContainer:
        """Returns the record of the container now that it is created.

        Args:
            pid: its init, running or a zombie.
        """
        with suppress(OSError):
            return replace(self, pid=pid, birth=start_time(pid))
        return replace(self, pid=pid)

    def is_running(self) -> bool:
        """Returns whether its init is there."""
        return self.pid > 0 and ProcessIdentity(self.pid, self.birth).exists()

    @classmethod
    def before(
        cls, container_id: str, bundle: str, spec: Mapping[str, Any], runtime: str, root: str | None
    ) -> OwnedContainer:
        """Returns the record of a container that is going to be created.

        Args:
            container_id: its id, as `spec.check_id` accepts it.
            bundle: the absolute path of its bundle.
            spec: the bundle's config.json.
            runtime: the absolute path of its runtime.
            root: the runtime's --root; None: its default.
        """
        leaves = [path for path in leftover_paths(spec, container_id) if not os.path.exists(path)]
        above: set[str] = set()
        for leaf in leaves:
            parent = os.path.dirname(leaf)
            while not os.path.exists(parent):
                above.add(parent)
                parent = os.path.dirname(parent)
        deepest_first = sorted(above, key=lambda path: -path.count("/"))
        return cls(container_id, bundle, runtime, root, tuple(leaves), tuple(deepest_first))


class Entry:
    """A file of a program's directory: what it says is true until it is removed.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def write(self, record: OwnedContainer | ProcessIdentity) -> None:
        """Writes it, whole or not at all.

        Raises:
            OSError: there is no room.
        """
        with open(f"{self._path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps(asdict(record)))
        os.replace(f"{self._path}.new", self._path)

    def remove(self) -> None:
        """Removes it. Idempotent."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)


class ProgramDirectory:
    """The directory of a program, of this process or another.

    Args:
        name: the directory's name.

    Attributes:
        name: the directory's name.
        path: its path.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = os.path.join(tempdirs.base(), name)

    @staticmethod
    def new_name() -> str:
        """Returns a name that no other program's has, and that nobody can guess."""
        return _PREFIX + os.urandom(8).hex()

    def make(self) -> int:
        """Makes it, as this process's own; returns the file descriptor that locks it.

        It gets its name when it is complete and locked, so that nobody takes it for a dead program's.

        Raises:
            OSError: there is no place for it that is ours alone, or no room.
        """
        os.close(tempdirs.open_base(make=True))
        new = f"{self.path}.new"
        os.mkdir(new, 0o700)
        with ExitStack() as stack:
            fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_SH)
            Entry(os.path.join(new, _OWNER)).write(ProcessIdentity.of(os.getpid()))
            os.mkdir(_CONTAINERS, 0o700, dir_fd=fd)
            os.mkdir(_SHIMS, 0o700, dir_fd=fd)
            os.rename(new, self.path)
            stack.pop_all()
            return fd

    def make_folder(self) -> str:
        """Makes a directory that goes with the program's, and returns its path."""
        path = os.path.join(self.path, f"tmp-{os.urandom(4).hex()}")
        os.mkdir(path, 0o700)
        return path

    def container(self) -> Entry:
        """Returns a new file for a container."""
        return Entry(os.path.join(self.path, _CONTAINERS, os.urandom(8).hex()))

    def shim(self) -> Entry:
        """Returns a new file for a shim whose environment cannot have the mark."""
        return Entry(os.path.join(self.path, _SHIMS, os.urandom(8).hex()))

    def owner(self) -> ProcessIdentity | None:
        """Returns the program's process; None if its file is not there, or not whole."""
        for fields in _read(os.path.join(self.path, _OWNER)):
            return ProcessIdentity(**fields)
        return None

    def containers(self) -> list[OwnedContainer]:
        """Returns the containers that there are, or may be."""
        found = []
        for fields in self._all(_CONTAINERS):
            record = OwnedContainer(**fields)
            found.append(replace(record, cgroups=tuple(record.cgroups), above=tuple(record.above)))
        return sorted(found, key=lambda record: record.id)

    def shims(self) -> list[ProcessIdentity]:
        """Returns the shims that the mark does not find."""
        return [ProcessIdentity(**fields) for fields in self._all(_SHIMS)]

    def is_alive(self) -> bool:
        """Returns whether the program, or its guardian, lives."""
        fd = self.lock()
        if fd is not None:
            os.close(fd)
        return fd is None

    def lock(self) -> int | None:
        """Takes it over from a dead program; returns the file descriptor that locks it, None if it is alive.

        Raises:
            FileNotFoundError: it is gone.
        """
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if not os.fstat(fd).st_nlink:
            os.close(fd)
            raise FileNotFoundError(self.path)
        return fd

    def _all(self, kind: str) -> Iterator[dict[str, Any]]:
        directory = os.path.join(self.path, kind)
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(directory)):
                if not name.endswith(".new"):  # its writer was killed, before it did what it was to say
                    yield from _read(os.path.join(directory, name))


def programs() -> list[ProgramDirectory]:
    """Returns the directories of all programs of this user, alive or dead."""
    with suppress(OSError):
        parent = tempdirs.open_base(make=False)
        try:
            return [ProgramDirectory(name) for name in sorted(filter(_NAME.fullmatch, os.listdir(parent)))]
        finally:
            os.close(parent)
    return []


def _read(path: str) -> Iterator[dict[str, Any]]:
    """Yields what a file says; nothing if it is gone or not whole."""
    with suppress(FileNotFoundError, ValueError):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            fields = json.load(file)
        if isinstance(fields, dict):
            yield fields
