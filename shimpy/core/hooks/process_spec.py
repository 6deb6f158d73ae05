"""Between the `process` object of the OCI runtime-spec and what hooks see of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shimpy.core.hooks.interface import HookContainer, HookExec, HookProcess
from shimpy.core.model import User
from shimpy.core.runtime.spec import ExecSpec, check_exec


def process_record(
    spec: Mapping[str, Any], container: HookContainer, process_id: str, exec_id: str, *, is_exec: bool
) -> HookProcess:
    """Returns what hooks see of a process, as far as it is as the runtime-spec has it.

    Args:
        spec: the `process` object.
        container: its container.
        process_id: see `HookProcess.id`.
        exec_id: its name.
        is_exec: whether it is not a container's first.
    """
    size = _object(spec.get("consoleSize"))
    cwd = spec.get("cwd")
    return HookProcess(
        container,
        process_id,
        is_exec,
        exec_id,
        _texts(spec.get("args")),
        _texts(spec.get("env")),
        cwd if isinstance(cwd, str) else "",
        _user(spec),
        terminal=bool(spec.get("terminal", False)),
        size=(_number(size.get("width")), _number(size.get("height"))),
    )


def changed_process(spec: Mapping[str, Any], before: HookProcess, after: HookExec) -> Mapping[str, Any]:
    """Returns a `process` object as a hook wants it. Only what the hook has changed is looked at.

    Args:
        spec: the object as it was.
        before: what the hook was given.
        after: what it has made of that.

    Raises:
        TypeError: a value is of another type.
        InvalidArgumentError: it could not be run.
    """
    changes: dict[str, Any] = {}
    if after.terminal != before.terminal:
        raise TypeError("terminal: cannot be changed")
    if list(after.args) != list(before.args):
        changes["args"] = _strings("args", after.args)
        check_exec(ExecSpec(args=tuple(changes["args"])))
    if list(after.env) != list(before.env):
        changes["env"] = _strings("env", after.env)
        check_exec(ExecSpec(args=("true",), env=tuple(changes["env"])))
    if after.cwd != before.cwd:
        (changes["cwd"],) = _strings("cwd", [after.cwd])
        check_exec(ExecSpec(args=("true",), cwd=after.cwd))
    if after.user != before.user:
        user = after.user
        if not isinstance(user, User):
            raise TypeError(f"user: {user!r:.64} is not a User")
        numbers = [user.uid, user.gid, *user.additional_gids]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise TypeError(f"user: {user!r:.64} has an id that is not a whole number from 0 on")
        check_exec(ExecSpec(args=("true",), user=user))
        # The umask belongs to the user object of the spec but does not identify the user.
        kept = {key: value for key, value in _object(spec.get("user")).items() if key == "umask"}
        groups = list(user.additional_gids)
        changes["user"] = {**kept, "uid": user.uid, "gid": user.gid, "additionalGids": groups}
    return {**spec, **changes} if changes else spec


def _strings(field: str, values: Iterable[object]) -> list[str]:
    found = [value for value in values if isinstance(value, str)]
    if isinstance(values, str) or len(found) != len(list(values)):
        raise TypeError(f"{field}: has a value that is not a string")
    return found


def _texts(values: object) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def _user(spec: Mapping[str, Any]) -> User:
    user = _object(spec.get("user"))
    groups = user.get("additionalGids")
    additional = tuple(map(_number, groups)) if isinstance(groups, list) else ()
    return User(_number(user.get("uid")), _number(user.get("gid")), additional)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
