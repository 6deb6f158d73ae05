"""What can go wrong, as one family: every class carries the code that a client sees, by its name."""

from __future__ import annotations

import errno
from typing import ClassVar, Final


class ShimError(Exception):
    """Base of every error that shimpy raises for a caller to read.

    The message names the thing that was wrong and, where there is one, the remedy; it is sent to
    clients as it is, so it never holds a traceback.

    Attributes:
        code: the name of the status that a client of the service gets for it, such as NOT_FOUND. gRPC and
            ttrpc have the same (google.rpc.Code).
    """

    code: ClassVar[str] = "INTERNAL"


class InternalError(ShimError):
    """The runtime, or shimpy itself, failed in a way that no other class describes."""


class InvalidArgumentError(ShimError):
    """A field of the request is wrong whatever state the container is in; the message names it."""

    code = "INVALID_ARGUMENT"


class NotFoundError(ShimError):
    """A process, path, program or runtime that the request names is not there."""

    code = "NOT_FOUND"


class AlreadyExistsError(ShimError):
    """There is a container already."""

    code = "ALREADY_EXISTS"


class PermissionDeniedError(ShimError):
    """A program or file may not be used by who asks for it."""

    code = "PERMISSION_DENIED"


class FailedPreconditionError(ShimError):
    """The state that the container or process is in forbids the call; the message names it."""

    code = "FAILED_PRECONDITION"


class ResourceExhaustedError(ShimError):
    """A limit was passed: of the kernel, of the disk, or one of shimpy's own."""

    code = "RESOURCE_EXHAUSTED"


# The system's own words for ResourceExhaustedError (errno(3)).
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT})


class UnimplementedError(ShimError):
    """The call, or what it asks for, is not offered."""

    code = "UNIMPLEMENTED"


class UnavailableError(ShimError):
    """The shim is shutting down, is gone, or cannot be reached."""

    code = "UNAVAILABLE"


class DeadlineExceededError(ShimError):
    """The call's deadline passed; it took no effect."""

    code = "DEADLINE_EXCEEDED"


class CanceledError(ShimError):
    """The call was cancelled by its client; it took no effect."""

    code = "CANCELLED"


_BY_CODE: Final = {cls.code: cls for cls in reversed(ShimError.__subclasses__())}

_BY_ERRNO: Final[dict[int, type[ShimError]]] = {
    errno.ENOENT: NotFoundError,
    errno.ENOTDIR: NotFoundError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.EROFS: PermissionDeniedError,
    **dict.fromkeys(EXHAUSTED, ResourceExhaustedError),
}


def from_code(code: str, message: str) -> ShimError:
    """Returns the error that a status stands for, as a client raises it.

    Args:
        code: the name of a status other than OK; InternalError stands for an unknown one.
        message: the status's message.
    """
    return _BY_CODE.get(code, InternalError)(message)


def from_oserror(error: OSError, message: str, *, default: type[ShimError] = InternalError) -> ShimError:
    """Returns the error that a failed system call stands for (errno(3)).

    Args:
        error: what the system call raised.
        message: what failed; the system's own words are added to it.
        default: for an errno that says nothing of whose fault it is.
    """
    return _BY_ERRNO.get(error.errno or 0, default)(f"{message}: {error.strerror or error}")
