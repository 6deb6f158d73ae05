"""The files by which a runtime's command is told what to do and tells what came of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, Self

from .. import scratch
from ..errors import InternalError, ResourceExhaustedError

MAX_LOG = 256 * 1024
"""Bytes of a runtime's log that are read, from its end: the last error is what counts."""


class CommandFiles:
    """The files of one command, in a private folder that goes with it."""

    def __init__(self) -> None:
        try:
            self._folder = scratch.make_folder()
        except OSError as error:
            raise ResourceExhaustedError(
                f"cannot make a temporary folder in {scratch.place()}: {error.strerror}"
            ) from error
        self.log = os.path.join(self._folder, "log")
        self.pid = os.path.join(self._folder, "pid")
        self.process = os.path.join(self._folder, "process")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        scratch.remove_folder(self._folder)

    def capture(self) -> BinaryIO:
        """Returns a new file for what a command prints."""
        path = os.path.join(self._folder, "output")
        try:
            return open(path, "x+b")
        except OSError as error:
            raise ResourceExhaustedError(f"cannot write {path}: {error.strerror}") from error

    def check_room(self, command: str) -> None:
        """Finds out whether a command that failed without a word had no room for one.

        Args:
            command: which, for the message.

        Raises:
            ResourceExhaustedError: it had none.
        """
        try:
            with open(os.path.join(self._folder, "room"), "xb") as file:
                file.write(bytes(4096))
        except OSError as error:
            raise ResourceExhaustedError(
                f"{command} failed and cannot write to {self._folder}: {error.strerror}"
            ) from error

    def write_process(self, process: Mapping[str, Any]) -> None:
        try:
            with open(self.process, "x", encoding="utf-8") as file:
                file.write(json.dumps(process))  # a third of the time of json.dump
        except OSError as error:
            raise ResourceExhaustedError(f"cannot write {self.process}: {error.strerror}") from error

    def read_pid(self, runtime: str) -> int:
        try:
            with open(self.pid, "rb") as file:
                text = file.read(32).strip()
        except OSError as error:
            raise InternalError(f"{runtime} succeeded but wrote no pid file: {error.strerror}") from error
        # Two is the least that can be our child: 1 is the system's init or that of our namespace.
        if not text.isdigit() or not 1 < int(text) <= 2**22:
            raise InternalError(f"{runtime} succeeded but wrote no pid into its pid file: {text!r}")
        return int(text)

    def read_log(self) -> bytes:
        try:
            with open(self.log, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - MAX_LOG))
                return file.read(MAX_LOG)
        except OSError:
            return b""
