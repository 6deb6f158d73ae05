"""What can go wrong, as one family: every class carries the gRPC status that a client sees."""

from __future__ import annotations

import errno
from typing import ClassVar, Final

from grpclib.const import Status


class ShimError(Exception):
    """Base of every error that shimpy raises for a caller to read.

    The message names the thing that was wrong and, where there is one, the remedy; it is sent to
    clients as it is, so it never holds a traceback.

    Attributes:
        status: the gRPC status that a client of the service gets for it.
    """

    status: ClassVar[Status] = Status.INTERNAL


class InternalError(ShimError):
    """The runtime, or shimpy itself, failed in a way that no other class describes."""


class InvalidArgumentError(ShimError):
    """A field of the request is wrong whatever state the container is in; the message names it."""

    status = Status.INVALID_ARGUMENT


class NotFoundError(ShimError):
    """A process, path, program or runtime that the request names is not there."""

    status = Status.NOT_FOUND


class AlreadyExistsError(ShimError):
    """There is a container already."""

    status = Status.ALREADY_EXISTS


class PermissionDeniedError(ShimError):
    """A program or file may not be used by who asks for it."""

    status = Status.PERMISSION_DENIED


class FailedPreconditionError(ShimError):
    """The state that the container or process is in forbids the call; the message names it."""

    status = Status.FAILED_PRECONDITION


class ResourceExhaustedError(ShimError):
    """A limit was passed: of the kernel, of the disk, or one of shimpy's own."""

    status = Status.RESOURCE_EXHAUSTED


EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT})
"""The system's own words for ResourceExhaustedError (errno(3))."""


class UnimplementedError(ShimError):
    """The call, or what it asks for, is not offered."""

    status = Status.UNIMPLEMENTED


class UnavailableError(ShimError):
    """The shim is shutting down, is gone, or cannot be reached."""

    status = Status.UNAVAILABLE


class DeadlineExceededError(ShimError):
    """The call's deadline passed; it took no effect."""

    status = Status.DEADLINE_EXCEEDED


class CanceledError(ShimError):
    """The call was cancelled by its client; it took no effect."""

    status = Status.CANCELLED


_BY_STATUS: dict[Status, type[ShimError]] = {cls.status: cls for cls in reversed(ShimError.__subclasses__())}


def from_status(status: Status, message: str) -> ShimError:
    """Returns the error that a status stands for, as a client raises it.

    Args:
        status: a gRPC status other than OK.
        message: the status's message.
    """
    return _BY_STATUS.get(status, InternalError)(message)
