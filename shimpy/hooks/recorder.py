"""A recorder of terminal sessions, in the format that asciinema plays (asciicast v2)."""

from __future__ import annotations

import codecs
import json
import os
import shlex
from json.encoder import encode_basestring
from typing import Final

from shimpy import HookProcess, Hooks, Tee

_MODE: Final = 0o600

# What a terminal is taken to have whose size nobody has said.
_COLUMNS: Final = 80
_ROWS: Final = 24


class SessionRecorder(Hooks):
    """Records every terminal of a container's processes to a file of its own.

    The files are named `CONTAINER-EXEC-PROCESS.cast`, with `init` for the exec of a container's first
    process, and an id that is also in the lines of `shimpy.hooks.audit`. What is typed is recorded as far as
    the terminal shows it; a password, which it does not show, is not. Of a shim that
    is killed, the last half second may be missing.

    Args:
        directory: where the files are made, with mode 0600; it is made, with mode 0700, if it is not there.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.fspath(directory)

    async def tee(self, process: HookProcess) -> Tee | None:
        """Records what has a terminal."""
        if not process.terminal:
            return None
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        name = process.exec_id or ("exec" if process.is_exec else "init")
        path = os.path.join(self._directory, f"{process.container.id}-{name}-{process.id}.cast")
        return _Recording(path, process)


class _Recording(Tee):
    """One session, whose file is made when it begins."""

    def __init__(self, path: str, process: HookProcess) -> None:
        self._path = path
        self._process = process
        self._fd = -1
        self._began = 0.0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    async def output(self, stream: str, data: bytes, time: float) -> None:
        if self._fd < 0:
            self._begin(*self._process.size, time)
        # A character may have come in half.
        if text := self._decode(data):
            # json.dumps of the list takes twice as long, and this is all that a recording costs.
            self._write(f'[{self._at(time)}, "o", {encode_basestring(text)}]')

    async def resized(self, columns: int, rows: int, time: float) -> None:
        if self._fd < 0:
            self._begin(columns, rows, time)
        else:
            self._write(json.dumps([self._at(time), "r", f"{columns}x{rows}"]))

    async def ended(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _begin(self, columns: int, rows: int, time: float) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, _MODE)
        self._began = time
        environment = dict(each.partition("=")[::2] for each in self._process.env)
        header = {
            "version": 2,
            "width": columns or _COLUMNS,
            "height": rows or _ROWS,
            "timestamp": int(time),
            "title": shlex.join(self._process.args),
            "env": {name: environment[name] for name in ("SHELL", "TERM") if name in environment},
        }
        self._write(json.dumps(header))

    def _at(self, time: float) -> float:
        # The clock may have been set back.
        return round(max(time - self._began, 0.0), 6)

    def _write(self, line: str) -> None:
        data = memoryview(f"{line}\n".encode())
        while data:
            data = data[os.write(self._fd, data) :]
