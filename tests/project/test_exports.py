"""The public surface: its names, their types, and what importing it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import shimpy
from shimpy import errors


def test_names() -> None:
    assert sorted(shimpy.__all__) == [
        "AlreadyExistsError",
        "BindMount",
        "CanceledError",
        "Chunk",
        "CommandStream",
        "Container",
        "ContainerState",
        "DeadlineExceededError",
        "Event",
        "EventStream",
        "EventType",
        "ExecOptions",
        "FailedPreconditionError",
        "HookContainer",
        "HookCreate",
        "HookExec",
        "HookProcess",
        "Hooks",
        "InternalError",
        "InvalidArgumentError",
        "NotFoundError",
        "PermissionDeniedError",
        "ProcessInfo",
        "ProcessState",
        "Pty",
        "ResourceExhaustedError",
        "Result",
        "Rlimit",
        "SandboxOptions",
        "Shim",
        "ShimClient",
        "ShimError",
        "SpawnedProcess",
        "Stats",
        "StrPath",
        "Tee",
        "UnavailableError",
        "UnimplementedError",
        "User",
        "WarmLauncher",
        "connect",
        "in_process",
        "launch",
        "run",
        "temporary_bundle",
        "write_bundle",
    ]


@pytest.mark.parametrize("name", shimpy.__all__)
def test_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(shimpy, name)
    assert name in dir(shimpy)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__


def test_every_error_is_public() -> None:
    family = {cls.__name__ for cls in errors.ShimError.__subclasses__() if cls.__module__ == errors.__name__}
    assert family | {"ShimError"} == {name for name in shimpy.__all__ if name.endswith("Error")}


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = shimpy.no_such_name


def test_serving_does_not_load_the_client() -> None:
    program = (
        "import sys, shimpy.daemon.serve; "
        "print([name for name in sys.modules if name.startswith('shimpy.client')])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert printed == "[]\n"


def test_types_are_complete(tmp_path: Path) -> None:
    """What a strict checker sees of each public name has no Any in it."""
    program = tmp_path / "program.py"
    uses = "\n".join(f"reveal_type(shimpy.{name})" for name in shimpy.__all__)
    program.write_text(f"import shimpy\n\n{uses}\n")
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-incremental",
            "--cache-dir",
            tmp_path / "cache",
            program,
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    revealed = [line for line in checked.stdout.splitlines() if "Revealed type is" in line]
    assert checked.returncode == 0, checked.stdout
    assert len(revealed) == len(shimpy.__all__)
    # What a coroutine is sent and yields is the event loop's business.
    types = [line.partition("Revealed")[2].replace("Coroutine[Any, Any, ", "") for line in revealed]
    assert [line for line in types if "Any" in line] == []
