"""The files by which a runtime's command is told what to do and tells what came of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, BinaryIO, Self

from shimpy.core import tempdirs
from shimpy.errors import EXHAUSTED, InternalError, ResourceExhaustedError, from_oserror

# Bytes of a runtime's log that are read, from its end: the last error is what counts.
MAX_LOG = 256 * 1024

# Bytes of a pid file that are read.
_MAX_PID = 32


class CommandFiles:
    """The files of one command. No one else can reach them, and they go with it.

    They are in memory and have no name; only a pid file, which runc writes beside its place and then
    renames, needs a directory. So nothing that others may fill can keep a command from being given.

    Args:
        directories: has directories for pid files; None: each is made for its command and goes with it.

    Attributes:
        log: the path of what the command logs.

    Raises:
        ShimError: no file descriptor or memory is left.
    """

    def __init__(self, directories: tempdirs.DirectoryPool | None = None) -> None:
        self._stack = ExitStack()
        self._directories = directories
        self._directory: tempdirs.PrivateDirectory | None = None
        # Not after a command that was killed or has failed: who knows what is left there, or still to come.
        self._is_clean = False
        self._log = self._make_file("log")
        self.log = tempdirs.path_of(self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def capture(self) -> BinaryIO:
        """Returns a new file for what a command prints.

        Raises:
            ShimError: no file descriptor or memory is left.
        """
        file = open(self._make_file("output"), "w+b", closefd=False)  # noqa: SIM115 - it goes with us
        return self._stack.enter_context(file)

    def make_json(self, value: Mapping[str, Any]) -> str:
        """Writes an object of the OCI runtime-spec for the command to read, and returns the path.

        Args:
            value: such as its `process`.

        Raises:
            ShimError: no file descriptor or memory is left.
        """
        fd = self._make_file("input")
        try:
            text = json.dumps(value).encode()  # a third of the time of json.dump
            while text:
                text = text[os.write(fd, text) :]
        except OSError as error:
            raise from_oserror(error, "cannot write the input of the runtime") from error
        return tempdirs.path_of(fd)

    def make_pid(self) -> str:
        """Makes a place for the command's pid file, and returns the path.

        Raises:
            ShimError: there is no room, or no file descriptor left.
        """
        try:
            pool = self._directories
            self._directory = tempdirs.PrivateDirectory() if pool is None else pool.take()
        except OSError as error:
            # Nothing of what the client named is missing or forbidden, whatever errno(3) says.
            failure = ResourceExhaustedError if error.errno in EXHAUSTED else InternalError
            raise failure(f"cannot make a temporary directory: {error.strerror}") from error
        self._stack.callback(self._close_directory)
        return os.path.join(self._directory.path, "pid")

    def read_pid(self, runtime: str) -> int:
        """Returns the pid that the command wrote.

        Args:
            runtime: the runtime's name, for the message.

        Raises:
            InternalError: it wrote none.
        """
        if self._directory is None:
            raise RuntimeError("there is no place for a pid file")
        try:
            text = self._directory.read("pid", _MAX_PID).strip()
            self._directory.remove("pid")
        except OSError as error:
            raise InternalError(f"{runtime} succeeded but wrote no pid file: {error.strerror}") from error
        # Two is the least that can be our child: 1 is the system's init or that of our namespace.
        if not text.isdigit() or not 1 < int(text) <= 2**22:
            raise InternalError(f"{runtime} succeeded but wrote no pid into its pid file: {text!r}")
        self._is_clean = True
        return int(text)

    def read_log(self) -> bytes:
        """Returns the end of what the command has logged, at most MAX_LOG bytes."""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, MAX_LOG, max(0, size - MAX_LOG))

    def _close_directory(self) -> None:
        if self._directory is None:
            return
        if self._directories is not None and self._is_clean:
            self._directories.give_back(self._directory)
        else:
            self._directory.close()

    def _make_file(self, name: str) -> int:
        try:
            fd = tempdirs.make_file(f"shimpy {name}")
        except OSError as error:
            raise from_oserror(error, "cannot make a temporary file") from error
        self._stack.callback(os.close, fd)
        return fd
