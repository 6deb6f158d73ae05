"""A policy that refuses execs by their command, user and namespace."""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shimpy import HookExec, Hooks, PermissionDeniedError
from shimpy.hooks.kubernetes import place


@dataclass(frozen=True, slots=True)
class ExecRule:
    """Which execs are refused: those for which all holds that is given.

    Attributes:
        command: a regular expression that is searched in the command, as a shell would be told it.
        user: the user id, inside the container, or several.
        namespace: a pattern such as `prod-*` that containerd's namespace matches, or Kubernetes'.
        message: what the client is told.
    """

    command: str = ""
    user: int | tuple[int, ...] | None = None
    namespace: str = "*"
    message: str = "this exec is not allowed"

    def matches(self, call: HookExec) -> bool:
        """Returns whether all holds for an exec."""
        users = (self.user,) if isinstance(self.user, int) else self.user
        names = {call.container.namespace, place(call.container).get("namespace", "")}
        return (
            (users is None or call.user.uid in users)
            and any(fnmatch.fnmatchcase(name, self.namespace) for name in names)
            and re.search(self.command, shlex.join(call.args)) is not None
        )


class ExecPolicy(Hooks):
    """Refuses execs that a rule matches, with the words of the first such rule.

    It sees what is asked for, not what a program does later: a policy that has to hold against the program
    itself is a matter of the container's user, capabilities and seccomp.

    Args:
        deny: the rules, each an `ExecRule`, or a table with its fields, as in a TOML file.

    Raises:
        TypeError: a table has another field.
        ValueError: a field cannot be used.
    """

    def __init__(self, deny: Iterable[ExecRule | Mapping[str, Any]]) -> None:
        self._rules = [rule if isinstance(rule, ExecRule) else _rule(rule) for rule in deny]
        for rule in self._rules:
            try:
                re.compile(rule.command)
            except re.error as error:
                raise ValueError(f"command: {rule.command!r} is not a regular expression: {error}") from error

    async def before_exec(self, call: HookExec) -> None:
        """Refuses what a rule matches."""
        for rule in self._rules:
            if rule.matches(call):
                raise PermissionDeniedError(rule.message)


def _rule(table: Mapping[str, Any]) -> ExecRule:
    values = dict(table)
    if isinstance(values.get("user"), list):
        values["user"] = tuple(values["user"])
    rule = ExecRule(**values)
    users = rule.user if isinstance(rule.user, tuple) else (rule.user,)
    if not all(user is None or type(user) is int for user in users):
        raise ValueError(f"user: {rule.user!r} is not a user id, nor a list of some")
    for name in ("command", "namespace", "message"):
        if not isinstance(getattr(rule, name), str):
            raise ValueError(f"{name}: {getattr(rule, name)!r} is not text")  # noqa: TRY004 - as the others
    return rule
