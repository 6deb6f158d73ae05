"""What an exec is asked for, checked before anything is made for it."""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from shimpy.client.model import ExecOptions
from shimpy.core.model import Rlimit, User
from shimpy.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

# The highest number that the request has room for as an id; what is over it would become another.
_UINT32 = 2**32 - 1

# The same for a terminal's columns or rows (TIOCSWINSZ, ioctl_tty(2)).
_UINT16 = 2**16 - 1

# The same for a limit.
_UINT64 = 2**64 - 1

_ARTICLES = {str: "a str", int: "an int", bool: "True or False"}

# The options that are of a plain type.
_KINDS = {"no_new_privileges": bool, "apparmor_profile": str, "selinux_label": str}


def check_exec(args: Sequence[str], options: ExecOptions) -> None:
    """Refuses what cannot be meant.

    Args:
        args: the program and its arguments.
        options: see `shimpy.ExecOptions`.

    Raises:
        TypeError: there is no such option, or *args* or an option are of the wrong type.
        InvalidArgumentError: a number is negative, or larger than there are ids or limits.
    """
    unknown = options.keys() - ExecOptions.__optional_keys__
    if unknown:
        known = ", ".join(sorted(ExecOptions.__optional_keys__))
        raise TypeError(f"there is no option {min(unknown)!r}; there are {known}")
    check_strings("args", args)
    check_command(args, options.get("env"), options.get("cwd"))
    check_user(options.get("user"))
    if (capabilities := options.get("capabilities")) is not None:
        check_strings("capabilities", capabilities)
    if (cwd := options.get("cwd")) is not None:
        check_cwd(os.fspath(cwd))
    for field, kind in _KINDS.items():
        check_kinds(kind, **{field: options.get(field)})
    if (rlimits := options.get("rlimits")) is not None:
        check_rlimits(rlimits)


def check_command(args: object, env: object, cwd: object) -> None:
    """Refuses what is of another type than a command is told by; None is not said.

    Args:
        args: the program and its arguments.
        env: its variables.
        cwd: the directory to start in.

    Raises:
        TypeError: naming the argument.
    """
    if args is not None:
        check_strings("args", args)
    _check_env(env)
    check_paths(cwd=cwd)


def check_paths(**paths: object) -> None:
    """Refuses what is not a path of text (TypeError); None is none.

    Args:
        paths: by the names of their arguments.
    """
    for field, path in paths.items():
        if path is not None and not (
            isinstance(path, str | os.PathLike) and isinstance(os.fspath(path), str)
        ):
            raise TypeError(f"{field} must be a path, not {path!r}")


# Links to a process's own file descriptors, where a runtime's may still be open (CVE-2024-21626).
_FORBIDDEN = ("/proc", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr")


def check_cwd(cwd: str) -> None:
    """Refuses a directory to start in that leads out of containers of old runtimes.

    Raises:
        InvalidArgumentError: it is below /proc, or is one of the links there.
    """
    path = "/" + os.path.normpath(cwd).lstrip("/")
    for forbidden in _FORBIDDEN:
        if path == forbidden or path.startswith(f"{forbidden}/"):
            raise InvalidArgumentError(
                f"cwd: {cwd} is not a directory to start in: below /proc a runtime's own may be found"
            )


def check_kinds(kind: type, **values: object) -> None:
    """Refuses what is of another type; None is of any.

    Args:
        kind: what all of them are to be.
        values: by the names of their arguments.

    Raises:
        TypeError: naming the argument.
    """
    for field, value in values.items():
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise TypeError(f"{field} must be {_ARTICLES[kind]}, not {value!r}")


def check_size(width: object, height: object) -> None:
    """Refuses what no terminal can have as its size.

    Args:
        width: columns.
        height: rows.

    Raises:
        TypeError: one is not an int.
        InvalidArgumentError: one is negative, or over 65,535.
    """
    for field, number in (("width", width), ("height", height)):
        _check_number(field, number, _UINT16)


def check_signal(signal: object) -> int:
    """Returns the number of a signal.

    Raises:
        TypeError: it is not an int, nor a `signal.Signals`.
        ValueError: there is no such signal.
    """
    if isinstance(signal, bool) or not isinstance(signal, int):
        raise TypeError(f"signal must be a number or one of signal.Signals, not {signal!r}")
    if not 1 <= signal < signals.NSIG:
        raise ValueError(f"signal: there is no signal {signal}")
    return int(signal)


def check_strings(field: str, strings: object) -> None:
    """Refuses what is not a sequence of strings (TypeError)."""
    if isinstance(strings, str | bytes) or not isinstance(strings, Iterable):
        raise TypeError(f"{field} must be a sequence of strings, not {strings!r}")
    for string in strings:
        if not isinstance(string, str):
            raise TypeError(f"{field}: {string!r} is not a string")


def _check_env(env: object) -> None:
    if env is None:
        return
    if not isinstance(env, Mapping):
        raise TypeError(f"env must be a mapping of names to values, not {env!r}")
    for name, value in env.items():
        if not isinstance(name, str):
            raise TypeError(f"env: {name!r} is not a string")
        if not isinstance(value, str):
            raise TypeError(f"env: the value of {name!r} is not a string: {value!r}")


def check_user(user: object) -> None:
    """Refuses what is neither None nor a user that there can be."""
    if user is None:
        return
    if not isinstance(user, User):
        raise TypeError(f"user must be a shimpy.User, not {user!r}")
    groups: object = user.additional_gids
    if isinstance(groups, str) or not isinstance(groups, Iterable):
        raise TypeError(f"user: additional_gids must be a sequence of numbers, not {groups!r}")
    for number in (user.uid, user.gid, *groups):
        _check_number("user", number, _UINT32)


def check_rlimits(rlimits: object) -> None:
    """Refuses what is not a sequence of limits."""
    if not isinstance(rlimits, Iterable):
        raise TypeError(f"rlimits must be a sequence of shimpy.Rlimit, not {rlimits!r}")
    for limit in rlimits:
        if not isinstance(limit, Rlimit):
            raise TypeError(f"rlimits: {limit!r} is not a shimpy.Rlimit")
        if not isinstance(limit.type, str):
            raise TypeError(f"rlimits: {limit.type!r} is not a string")
        for number in (limit.soft, limit.hard):
            _check_number("rlimits", number, _UINT64)


def _check_number(field: str, number: object, highest: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{field}: {number!r} is not an int")
    if not 0 <= number <= highest:
        raise InvalidArgumentError(f"{field}: {number} is not between 0 and {highest}")
