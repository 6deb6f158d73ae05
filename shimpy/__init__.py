"""A container runtime shim: containerd's first shim API, served over a runc-compatible runtime.

Everything public is here; each name is imported when it is first used, so that serving
(`python -m shimpy`) does not load what only a client needs.
"""

from __future__ import annotations

# `typing` is a third of what containerd's `start` and `delete` would import; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from shimpy.client.bundle import write_bundle
    from shimpy.client.client import ShimClient
    from shimpy.client.command_stream import CommandStream
    from shimpy.client.connect import connect
    from shimpy.client.container import Container
    from shimpy.client.embed import in_process
    from shimpy.client.launch import launch
    from shimpy.client.model import (
        Chunk,
        ContainerState,
        Event,
        EventType,
        ExecOptions,
        ProcessInfo,
        ProcessState,
        Result,
        Stats,
        StrPath,
    )
    from shimpy.client.one_shot import run, temporary_bundle
    from shimpy.client.sandbox.options import BindMount, SandboxOptions
    from shimpy.client.spawned_process import SpawnedProcess
    from shimpy.client.subscription import EventStream
    from shimpy.client.terminal import Pty
    from shimpy.client.warm_launcher import WarmLauncher
    from shimpy.core.hooks.interface import (
        HookContainer,
        HookCreate,
        HookExec,
        HookProcess,
        Hooks,
        Tee,
    )
    from shimpy.core.model import Rlimit, User
    from shimpy.errors import (
        AlreadyExistsError,
        CanceledError,
        DeadlineExceededError,
        FailedPreconditionError,
        InternalError,
        InvalidArgumentError,
        NotFoundError,
        PermissionDeniedError,
        ResourceExhaustedError,
        ShimError,
        UnavailableError,
        UnimplementedError,
    )
    from shimpy.services.shim_v1 import Shim

__all__ = [  # noqa: RUF022 - grouped by use, as the reference is
    # Ways to a shim
    "connect",
    "in_process",
    "launch",
    "run",
    "Shim",
    "temporary_bundle",
    "WarmLauncher",
    "write_bundle",
    # What one works with
    "CommandStream",
    "Container",
    "EventStream",
    "Pty",
    "ShimClient",
    "SpawnedProcess",
    # What one programs it with
    "HookContainer",
    "HookCreate",
    "HookExec",
    "HookProcess",
    "Hooks",
    "Tee",
    # Records
    "BindMount",
    "Chunk",
    "ContainerState",
    "Event",
    "EventType",
    "ExecOptions",
    "ProcessInfo",
    "ProcessState",
    "Result",
    "Rlimit",
    "SandboxOptions",
    "Stats",
    "StrPath",
    "User",
    # Errors
    "AlreadyExistsError",
    "CanceledError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "ShimError",
    "UnavailableError",
    "UnimplementedError",
]

# Where the names are that are neither records (shimpy.client.model) nor errors (shimpy.errors).
_MODULES = {
    "Shim": "shimpy.services.shim_v1",
    "connect": "shimpy.client.connect",
    "in_process": "shimpy.client.embed",
    "launch": "shimpy.client.launch",
    "run": "shimpy.client.one_shot",
    "temporary_bundle": "shimpy.client.one_shot",
    "write_bundle": "shimpy.client.bundle",
    "BindMount": "shimpy.client.sandbox.options",
    "SandboxOptions": "shimpy.client.sandbox.options",
    "CommandStream": "shimpy.client.command_stream",
    "Container": "shimpy.client.container",
    "HookContainer": "shimpy.core.hooks.interface",
    "HookCreate": "shimpy.core.hooks.interface",
    "HookExec": "shimpy.core.hooks.interface",
    "HookProcess": "shimpy.core.hooks.interface",
    "Hooks": "shimpy.core.hooks.interface",
    "Tee": "shimpy.core.hooks.interface",
    "EventStream": "shimpy.client.subscription",
    "Pty": "shimpy.client.terminal",
    "Rlimit": "shimpy.core.model",
    "ShimClient": "shimpy.client.client",
    "SpawnedProcess": "shimpy.client.spawned_process",
    "User": "shimpy.core.model",
    "WarmLauncher": "shimpy.client.warm_launcher",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elsewhere = "shimpy.errors" if name.endswith("Error") else "shimpy.client.model"
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_MODULES.get(name, elsewhere)), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
