"""What a caller says, as the messages of the API have it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shimpy import api
from shimpy.core.runtime.spec import ExecSpec
from shimpy.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shimpy.client.model import ExecOptions, StrPath
    from shimpy.core.model import Rlimit, User


def exec_request(
    asked: ExecSpec,
    *,
    terminal: bool,
    stdin: StrPath | None,
    stdout: StrPath | None,
    stderr: StrPath | None,
) -> api.ExecRequest:
    """Returns the request for an exec.

    Args:
        asked: what is to run, and how.
        terminal: it gets a terminal.
        stdin: what it reads; None: `/dev/null`, as for the others.
        stdout: where it writes.
        stderr: where it writes its errors.
    """
    request = api.ExecRequest(
        terminal=terminal,
        stdin=path_text(stdin),
        stdout=path_text(stdout),
        stderr=path_text(stderr),
        args=list(asked.args),
        env=list(asked.env),
        cwd=asked.cwd,
        capabilities=list(asked.capabilities),
        rlimits=[_rlimit(limit) for limit in asked.rlimits],
        no_new_privileges=asked.no_new_privileges,
        apparmor_profile=asked.apparmor_profile,
        selinux_label=asked.selinux_label,
    )
    if asked.user is not None:
        request.user = _user(asked.user)
    return request


def path_text(path: StrPath | None) -> str:
    """Returns a path as the API has it; empty for None."""
    return "" if path is None else os.fspath(path)


def environment(env: Mapping[str, str]) -> list[str]:
    """Returns an environment as the OCI runtime-spec has it.

    Raises:
        InvalidArgumentError: a name is empty or has a `=` in it.
    """
    for name in env:
        if not name or "=" in name:
            raise InvalidArgumentError(f"env: {name!r} is not a valid variable name")
    return [f"{name}={value}" for name, value in env.items()]


def exec_spec(args: Sequence[str], options: ExecOptions) -> ExecSpec:
    """Returns what an exec is asked for, its variables without those of the container.

    Args:
        args: the program and its arguments.
        options: as `check_exec` accepts them.

    Raises:
        InvalidArgumentError: a variable's name is empty or has a `=` in it.
    """
    return ExecSpec(
        args=tuple(args),
        env=tuple(environment(options.get("env") or {})),
        cwd=path_text(options.get("cwd")),
        user=options.get("user"),
        capabilities=tuple(options.get("capabilities") or ()),
        rlimits=tuple(options.get("rlimits") or ()),
        no_new_privileges=options.get("no_new_privileges") or False,
        apparmor_profile=options.get("apparmor_profile") or "",
        selinux_label=options.get("selinux_label") or "",
    )


def _user(user: User) -> api.User:
    return api.User(uid=user.uid, gid=user.gid, additional_gids=list(user.additional_gids))


def _rlimit(limit: Rlimit) -> api.Rlimit:
    return api.Rlimit(type=limit.type, soft=limit.soft, hard=limit.hard)
