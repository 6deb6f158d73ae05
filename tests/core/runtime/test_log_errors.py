"""Which error a runtime's words are, and how much of them is handed on."""

from __future__ import annotations

import errno
import os

import pytest

from shimpy.core.runtime.log_errors import MAX_MESSAGE, last_error, not_started, refused
from shimpy.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ShimError,
)
from shimpy.testing import error_line


def error_of(message: str) -> ShimError:
    return refused("oci", "create", 1, error_line(message))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        # Of runc 1.1 to 1.3.
        ("container with given ID already exists", AlreadyExistsError),
        ("container does not exist", NotFoundError),
        ('exec: "x": executable file not found in $PATH', NotFoundError),
        ('exec: "/x": stat /x: no such file or directory', NotFoundError),
        ('exec: "/x/y": stat /x/y: not a directory', NotFoundError),
        ('exec: "/x": permission denied', PermissionDeniedError),
        ('exec: "/x": is a directory', PermissionDeniedError),
        ("error setting rlimit type 7: operation not permitted", PermissionDeniedError),
        ("cannot exec in a stopped container", FailedPreconditionError),
        ("cannot exec in a paused container (use --ignore-paused to override)", FailedPreconditionError),
        ("cannot exec a container that has stopped", FailedPreconditionError),
        ("cannot start a container that has stopped", FailedPreconditionError),
        ("cannot start an already running container", FailedPreconditionError),
        ("container not running", FailedPreconditionError),
        ("container not paused", FailedPreconditionError),
        ("mkdir /run/runc/x: file name too long", InvalidArgumentError),
        ('exec: "/x": stat /x: too many levels of symbolic links', InvalidArgumentError),
        ("write /x/.pid: no space left on device", ResourceExhaustedError),
        ("write /x: disk quota exceeded", ResourceExhaustedError),
        ("fork/exec /proc/self/exe: cannot allocate memory", ResourceExhaustedError),
        ("fork/exec /proc/self/exe: resource temporarily unavailable", ResourceExhaustedError),
        ("pipe2: too many open files", ResourceExhaustedError),
        (
            "json: cannot unmarshal number into Go struct field Process.process.args of type []string",
            InvalidArgumentError,
        ),
        ("root must be specified", InvalidArgumentError),
        ("args must not be empty", InvalidArgumentError),
        ("Cwd property must not be empty", InvalidArgumentError),
        ("Cwd must be an absolute path", InvalidArgumentError),
        ('malformed spec file: duplicated ns {"pid" ""}', InvalidArgumentError),
        ("wrong rlimit value: X", InvalidArgumentError),
        ("invalid rootfs: not an absolute path, or a symlink", InvalidArgumentError),
        ('invalid environment variable: "A"', InvalidArgumentError),
        ("the pool is on fire", InternalError),
        # Of crun 1.x, which takes strerror(3) as it is.
        ("container `x` already exists", AlreadyExistsError),
        ("error opening file `/run/crun/x/status`: No such file or directory", NotFoundError),
        ("executable file `x` not found in $PATH: No such file or directory", NotFoundError),
        ("open executable: Permission denied", PermissionDeniedError),
        ("the container `x` is not running", FailedPreconditionError),
        ("container is not running", FailedPreconditionError),
        ("write: No space left on device", ResourceExhaustedError),
        ("invalid config file, no 'root' block specified", InvalidArgumentError),
        ("error loading config.json", InvalidArgumentError),
    ],
)
def test_the_words_say_which_error_it_is(message: str, error: type[ShimError]) -> None:
    found = error_of(message)

    assert type(found) is error
    assert str(found) == f"oci create failed with exit status 1: {message}"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("container x already exists: open /x: no such file or directory", AlreadyExistsError),
        ("mkdir /x: no space left on device: open /y: permission denied", ResourceExhaustedError),
        ("open /no such file or directory: no space left on device", ResourceExhaustedError),
        ("error loading config.json: No such file or directory", NotFoundError),
    ],
)
def test_of_several_the_one_that_weighs_more_counts(message: str, error: type[ShimError]) -> None:
    assert type(error_of(message)) is error


@pytest.mark.parametrize("command", ["start", "exec", "pause", "delete", "state"])
def test_only_a_create_can_have_a_bad_configuration(command: str) -> None:
    """What another command cannot read is the runtime's own."""
    log = error_line("json: cannot unmarshal number into Go struct field State.config of type string")

    assert type(refused("oci", command, 1, log)) is InternalError


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "oci pause failed with exit status 1"),
        (255, "oci pause failed with exit status 255"),
        (-9, "oci pause was killed by signal 9"),
        (-15, "oci pause was killed by signal 15"),
    ],
)
def test_how_it_ended_is_said_with_and_without_words_of_its_own(code: int, words: str) -> None:
    assert str(refused("oci", "pause", code, error_line("fire"))) == f"{words}: fire"
    silent = refused("oci", "pause", code, b"")
    assert str(silent) == f"{words} and left no error message in its log"
    assert type(silent) is InternalError


@pytest.mark.parametrize("level", ["error", "fatal", "panic"])
def test_each_level_that_ends_a_runtime_is_an_error(level: str) -> None:
    log = b'{"level":"%s","msg":"fire"}\n{"level":"warning","msg":"smoke"}\n' % level.encode()

    assert last_error(log) == "fire"


def test_of_a_long_message_the_beginning_and_the_cause_are_kept() -> None:
    """Errors are told from the outside in."""
    found = str(error_of(f"cannot write {'x' * 100_000}: no space left on device"))

    assert found.startswith("oci create failed with exit status 1: cannot write xxx")
    assert found.endswith("xxx: no space left on device")
    assert " ... " in found
    assert len(found) < MAX_MESSAGE + 100


def test_the_kind_of_a_long_message_is_told_by_what_is_kept() -> None:
    assert type(error_of(f"{'x' * 100_000}: permission denied")) is PermissionDeniedError


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOENT, NotFoundError),
        (errno.EACCES, PermissionDeniedError),
        (errno.EPERM, PermissionDeniedError),
        *((number, ResourceExhaustedError) for number in (errno.EAGAIN, errno.ENOMEM, errno.ENOSPC)),
        *((number, ResourceExhaustedError) for number in (errno.EMFILE, errno.ENFILE)),
        (errno.ENOEXEC, InternalError),
        (errno.EIO, InternalError),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_a_runtime_that_cannot_be_started(number: int, error: type[ShimError]) -> None:
    found = not_started("oci", OSError(number, os.strerror(number)))

    assert type(found) is error
    assert str(found) == f"oci cannot be started: {os.strerror(number)}"
