"""What a runtime says when a command of it fails, as an error that says it to the client."""

from __future__ import annotations

import errno
import json

from shimpy.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ShimError,
    from_oserror,
)

# Characters of the runtime's own words that are passed on: a status travels in HTTP/2 headers.
MAX_MESSAGE = 1024


# Lines of it that are looked at: as many as MAX_LOG holds would hold up the event loop for a second.
MAX_LOG_LINES = 1024

_CUT = " ... "

# The first that a message contains decides. The words are those of runc 1.1-1.3 and crun 1.x.
_REFUSALS: tuple[tuple[str, type[ShimError]], ...] = (
    ("already exists", AlreadyExistsError),
    ("no space left on device", ResourceExhaustedError),
    ("disk quota exceeded", ResourceExhaustedError),
    ("cannot allocate memory", ResourceExhaustedError),
    ("resource temporarily unavailable", ResourceExhaustedError),
    ("too many open files", ResourceExhaustedError),
    ("file name too long", InvalidArgumentError),
    ("too many levels of symbolic links", InvalidArgumentError),
    ("executable file not found", NotFoundError),
    ("no such file or directory", NotFoundError),
    ("not a directory", NotFoundError),
    ("permission denied", PermissionDeniedError),
    ("is a directory", PermissionDeniedError),
    ("operation not permitted", PermissionDeniedError),
    ("paused container", FailedPreconditionError),
    ("stopped container", FailedPreconditionError),
    ("container that has stopped", FailedPreconditionError),
    ("already running container", FailedPreconditionError),
    ("container not paused", FailedPreconditionError),
    ("container not running", FailedPreconditionError),
    ("is not running", FailedPreconditionError),
    ("does not exist", NotFoundError),
)

# What the same say of a configuration that is not as the runtime-spec has it. Only of a create's: other
# commands read JSON of the runtime's own, which no client can put right.
_BAD_CONFIGURATION = (
    "json: cannot unmarshal",
    "must be specified",
    "must not be empty",
    "must be an absolute path",
    "malformed spec file",
    "wrong rlimit value",
    "invalid config file",
    "error loading config.json",
    "invalid rootfs: not an absolute path, or a symlink",
    "invalid environment variable",
)


def last_error(log: bytes) -> str:
    """Returns the message of the last error in a runtime's log, or "" when it tells of none.

    Args:
        log: what a runtime wrote with `--log-format json`: a JSON object on each line, possibly
            cut off, mixed with other text, or garbage.

    Returns:
        At most MAX_MESSAGE printable characters.
    """
    for line in reversed(log.splitlines()[-MAX_LOG_LINES:]):
        try:
            # Not every runtime makes its messages, which may quote any path, UTF-8.
            entry = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal", "panic"):
            message = entry.get("msg")
            if isinstance(message, str) and message.strip():
                return _printable(message)
    return ""


def _printable(text: str) -> str:
    words = " ".join(text.split())
    if len(words) > MAX_MESSAGE:
        # Errors are told from the outside in: the cause stands last.
        half = (MAX_MESSAGE - len(_CUT)) // 2
        words = words[:half] + _CUT + words[-half:]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in words)


def refused(runtime: str, command: str, code: int, log: bytes) -> ShimError:
    """Returns the error for a command that failed.

    Args:
        runtime: the runtime's name, for the message.
        command: the command's word.
        code: its exit status, or the negative number of the signal that killed it.
        log: what it has logged.
    """
    if code < 0:
        what = f"{runtime} {command} was killed by signal {-code}"
    else:
        what = f"{runtime} {command} failed with exit status {code}"
    message = last_error(log)
    if not message:
        return InternalError(f"{what} and left no error message in its log")
    lowered = message.lower()
    for words, error in _REFUSALS:
        if words in lowered:
            return error(f"{what}: {message}")
    if command == "create" and any(words in lowered for words in _BAD_CONFIGURATION):
        return InvalidArgumentError(f"{what}: {message}")
    return InternalError(f"{what}: {message}")


def not_started(runtime: str, error: OSError, *, missing: type[ShimError] = NotFoundError) -> ShimError:
    """Returns the error for a runtime that could not even be started.

    Args:
        runtime: the runtime's name, for the message.
        error: what the start raised.
        missing: of which class the error is when the program is not there. For most calls it cannot be
            NOT_FOUND, which says that the process or the container is gone.
    """
    what = f"{runtime} cannot be started"
    if error.errno == errno.EAGAIN:  # too many processes (fork(2))
        return ResourceExhaustedError(f"{what}: {error.strerror}")
    failure = from_oserror(error, what)
    return missing(str(failure)) if isinstance(failure, NotFoundError) else failure
