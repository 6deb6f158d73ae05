"""What an ExecRequest asks for, in the core's words."""

from __future__ import annotations

import betterproto

from shimpy import api
from shimpy.core.model import Rlimit, User
from shimpy.core.runtime.spec import ExecSpec, check_exec


def exec_spec(request: api.ExecRequest) -> ExecSpec:
    """Returns the process that a request asks for.

    Raises:
        InvalidArgumentError: no container could run it; the message names the field.
    """
    user = None
    if betterproto.serialized_on_wire(request.user):
        user = User(request.user.uid, request.user.gid, tuple(request.user.additional_gids))
    asked = ExecSpec(
        args=tuple(request.args),
        env=tuple(request.env),
        cwd=request.cwd,
        user=user,
        capabilities=tuple(request.capabilities),
        rlimits=tuple(Rlimit(limit.type, soft=limit.soft, hard=limit.hard) for limit in request.rlimits),
        no_new_privileges=request.no_new_privileges,
        apparmor_profile=request.apparmor_profile,
        selinux_label=request.selinux_label,
        terminal=request.terminal,
    )
    check_exec(asked)
    return asked
