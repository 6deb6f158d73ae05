"""The policy for execs."""

from __future__ import annotations

from typing import Any

import pytest

import shimpy
from shimpy.hooks.policy import ExecPolicy, ExecRule

pytestmark = pytest.mark.anyio


def call(*args: str, uid: int = 0, namespace: str = "default", pods: str = "") -> shimpy.HookExec:
    annotations = {"io.kubernetes.cri.sandbox-namespace": pods} if pods else {}
    container = shimpy.HookContainer("web", namespace, "/bundle", annotations)
    return shimpy.HookExec(container, "id", "", list(args), [], "/", shimpy.User(uid=uid), terminal=False)


@pytest.mark.parametrize(
    ("rule", "refused", "allowed"),
    [
        ({"command": r"^(\S*/)?sh\b"}, call("/bin/sh", "-c", "true"), call("ls", "sh")),
        ({"command": "rm -rf"}, call("rm", "-rf", "/"), call("rm", "-r", "/")),
        ({"user": 0}, call("ls"), call("ls", uid=1000)),
        ({"user": [0, 7]}, call("ls", uid=7), call("ls", uid=1)),
        ({"namespace": "prod-*"}, call("ls", namespace="prod-1"), call("ls")),
        ({"namespace": "prod"}, call("ls", namespace="k8s.io", pods="prod"), call("ls", namespace="k8s.io")),
        ({"command": "^ls", "user": 0}, call("ls"), call("ls", uid=1)),
    ],
    ids=["program", "arguments", "user", "users", "namespace", "kubernetes", "both"],
)
async def test_a_rule(rule: dict[str, Any], refused: shimpy.HookExec, allowed: shimpy.HookExec) -> None:
    policy = ExecPolicy([{**rule, "message": "not here"}])
    with pytest.raises(shimpy.PermissionDeniedError, match="not here"):
        await policy.before_exec(refused)
    await policy.before_exec(allowed)


async def test_the_first_rule_speaks() -> None:
    policy = ExecPolicy([ExecRule(message="first"), ExecRule(message="second")])
    with pytest.raises(shimpy.PermissionDeniedError, match="first"):
        await policy.before_exec(call("ls"))


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"command": "("}, ValueError),
        ({"user": "root"}, ValueError),
        ({"command": 3}, ValueError),
        ({"program": "ls"}, TypeError),
    ],
)
def test_a_rule_that_cannot_be_used(rule: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(rule))):
        ExecPolicy([rule])
