"""`-info` and `-v`: what this shim is, and what its runtime can do."""

from __future__ import annotations

import json
import os

from shimpy.daemon.containerd import wire
from shimpy.daemon.containerd.bootstrap import RUNC_OPTIONS, TOML_OPTIONS, read_any, read_stdin
from shimpy.daemon.containerd.command import run
from shimpy.daemon.version import version

_FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
_PREFIX = "containerd-shim-"

# Seconds for the runtime to tell what it can do.
_TIMEOUT = 5.0


def print_info(program: str) -> None:
    """Prints the RuntimeInfo that containerd 2 asks for.

    Args:
        program: the name that this program was called by, such as containerd-shim-shimpy-v2.

    Raises:
        MalformedError: what containerd sent is not understood.
        OSError: there is no such runtime.
    """
    stdin = read_stdin()
    binary = _binary(stdin)
    features = b""
    status, told = run([binary, "features"], timeout=_TIMEOUT)
    if status == 0 and _is_object(told):  # some runtimes do not know the question
        features = wire.write({1: _FEATURES, 2: told})
    about = wire.write({1: version()})
    os.write(1, wire.write({1: runtime_name(program), 2: about, 3: stdin, 4: features}))


def runtime_name(program: str) -> str:
    """Returns the name of the runtime in containerd's configuration that a program serves.

    Args:
        program: its path; containerd makes `containerd-shim-a-v2` out of `io.containerd.a.v2`.
    """
    name = os.path.basename(program)
    if not name.startswith(_PREFIX):
        return "io.containerd.shimpy.v2"
    return f"io.containerd.{name.removeprefix(_PREFIX).replace('-', '.')}"


def _binary(stdin: bytes) -> str:
    """Returns the runtime that the options name."""
    kind, value = read_any(wire.read(stdin))
    if kind == RUNC_OPTIONS:
        return wire.text(wire.read(value), 6) or "runc"
    if kind == TOML_OPTIONS:
        from shimpy.core.runtime.options import RuntimeOptions

        table = wire.read(value)
        return RuntimeOptions.from_toml(wire.blob(table, 3), path=wire.text(table, 2)).binary_name or "runc"
    return "runc"


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
