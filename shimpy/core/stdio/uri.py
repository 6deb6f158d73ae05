"""Where a process's output goes, as containerd says it: a path, or a URI in place of stdout's path.

The scheme of stdout decides for both outputs; without one it is a FIFO or whatever else has a path
(containerd's docs/man/containerd-shim, core/runtime/v2/README.md, "Logging").
"""

from __future__ import annotations

import os
import re
import stat
import urllib.parse
from dataclasses import dataclass
from typing import Final

from shimpy.errors import InvalidArgumentError, from_oserror

# As in RFC 3986; a path that begins with a slash never looks like one.
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class OutputPath:
    """A FIFO, file or device that is there, as in a request that knows no URIs.

    Attributes:
        path: empty for none.
    """

    path: str


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file that takes both outputs, and is made if it is not there.

    Attributes:
        path: absolute.
    """

    path: str

    def create(self) -> None:
        """Makes the file, and the directories that it is in; one that is there stays as it is.

        Raises:
            InvalidArgumentError: something else is there.
            ShimError: the kernel refused.
        """
        try:
            _make_directories(os.path.dirname(self.path))
            # A FIFO in its place would make us wait for a reader.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            fd = os.open(self.path, flags, _FILE_MODE)
        except OSError as error:
            raise from_oserror(
                error, f"stdout: cannot make {self.path!r}", default=InvalidArgumentError
            ) from error
        try:
            mode = os.fstat(fd).st_mode
        finally:
            os.close(fd)
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
            raise InvalidArgumentError(f"stdout: {self.path!r} is there and is not a file")


@dataclass(frozen=True, slots=True)
class LogProgram:
    """A program that reads both outputs.

    Attributes:
        path: absolute.
        arguments: what follows its name.
        must_say_ready: whether it has failed if it ends without having said that it is ready.
    """

    path: str
    arguments: tuple[str, ...]
    must_say_ready: bool


Output = OutputPath | LogFile | LogProgram


def parse_output(stdout: str) -> Output:
    """Returns where output goes.

    Args:
        stdout: a path, `fifo:///PATH`, `file:///PATH`, `binary:///PROGRAM?KEY=VALUE&…` or
            `binary-v2:///PROGRAM?…`. The program's arguments are each key with its first value.

    Raises:
        InvalidArgumentError: it is none of these.
    """
    match = _URI.fullmatch(stdout)
    if match is None:
        return OutputPath(stdout)
    scheme, rest = match[1].lower(), match[2]
    if scheme not in ("fifo", "file", "binary", "binary-v2"):
        raise InvalidArgumentError(
            f"stdout: {scheme!r} is not a scheme for output; use fifo, file, binary or binary-v2"
        )
    rest, _, _ = rest.partition("#")
    location, _, query = rest.partition("?")
    path = _path(stdout, location)
    if scheme == "fifo":
        return OutputPath(path)
    if scheme == "file":
        return LogFile(path)
    return LogProgram(path, _arguments(query), must_say_ready=scheme == "binary-v2")


def _path(uri: str, location: str) -> str:
    if location.startswith("//"):
        host, slash, path = location[2:].partition("/")
        if host not in ("", "localhost"):
            raise InvalidArgumentError(f"stdout: {uri!r} names the host {host!r}; write scheme:///path")
        location = slash + path
    path = urllib.parse.unquote(location, errors="surrogateescape")
    if not path.startswith("/") or path.endswith("/"):
        raise InvalidArgumentError(f"stdout: the path in {uri!r} is not that of a file; write scheme:///path")
    if "\0" in path:
        raise InvalidArgumentError(f"stdout: the path in {uri!r} holds a NUL")
    return path


def _arguments(query: str) -> tuple[str, ...]:
    arguments: dict[str, str] = {}
    for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
        arguments.setdefault(key, value)
    flat = tuple(word for pair in arguments.items() for word in pair)
    if any("\0" in word for word in flat):
        raise InvalidArgumentError("stdout: an argument of the log program holds a NUL")
    return flat


def _make_directories(path: str) -> None:
    """Makes a directory, and those that it is in; unlike os.makedirs with one mode for all."""
    try:
        os.mkdir(path, _DIRECTORY_MODE)
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make_directories(os.path.dirname(path))
        os.mkdir(path, _DIRECTORY_MODE)
