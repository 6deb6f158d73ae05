"""The values of the options of a sandbox, as docker has them; what cannot be had is refused, not ignored."""

from __future__ import annotations

import json
import math
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shimpy.client.sandbox.options import BindMount

# Bytes of a size for a tmpfs that is given without one, as the default /tmp has.
_TMPFS = 64 << 20

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

# Of docker's for a volume: what means nothing on Linux.
_FOR_OTHERS = frozenset({"consistent", "cached", "delegated"})

_SELINUX = "/sys/fs/selinux/enforce"

# How every tmpfs is.
_OF_TMPFS = frozenset({"rw", "exec", "nosuid", "nodev", "mode=1777"})

_BOOLEANS = {"": True, "true": True, "1": True, "false": False, "0": False}


def size(option: str, text: str) -> int:
    """Returns bytes that were given as a number with a unit: b, k, m, g or t.

    Args:
        option: for which, for the message.
        text: what was given.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:([kmgt])(?:i?b)?|b)?", text.lower(), re.ASCII)
    if found is None:
        raise typer.BadParameter(f"{option}: {text!r} is not a number of bytes such as 512m")
    return math.ceil(Decimal(found[1]) * _UNITS[found[2] or ""])


def volume(text: str) -> BindMount:
    """Returns what was given as `SOURCE:TARGET[:OPTION,…]`."""
    source, _, rest = text.partition(":")
    target, _, options = rest.partition(":")
    given = {option for option in options.split(",") if option} - _FOR_OTHERS
    labels = given & {"z", "Z"}
    if labels and os.path.exists(_SELINUX):
        raise typer.BadParameter(f"--volume: {text!r}: files are not labelled here; do it with chcon(1)")
    access = given - labels
    if not target or not access <= {"ro", "rw"} or len(access) > 1:
        raise typer.BadParameter(f"--volume: {text!r} is not SOURCE:TARGET[:ro]")
    return _bind(source, target, read_only=access == {"ro"})


def _bind(source: str, target: str, *, read_only: bool) -> BindMount:
    from shimpy.client.sandbox.options import BindMount

    return BindMount(source, target, read_only)


def mount(text: str) -> BindMount | tuple[str, int]:
    """Returns a `--mount`; a tmpfs as its path with its bytes."""
    names = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
    fields = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        fields[names.get(name, name)] = value
    kind = fields.pop("type", "bind")
    needed = {"target"} if kind == "tmpfs" else {"source", "target"}
    known = needed | {"tmpfs-size" if kind == "tmpfs" else "readonly"}
    if kind not in ("bind", "tmpfs") or not needed <= fields.keys() <= known:
        raise typer.BadParameter(
            f"--mount: {text!r} is neither type=bind,source=PATH,target=PATH[,readonly] nor "
            "type=tmpfs,target=PATH[,tmpfs-size=BYTES]"
        )
    if kind == "tmpfs":
        return fields["target"], size("--mount", fields["tmpfs-size"]) if "tmpfs-size" in fields else _TMPFS
    read_only = "readonly" in fields and _boolean("--mount", text, fields["readonly"])
    return _bind(fields["source"], fields["target"], read_only=read_only)


def _boolean(option: str, text: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise typer.BadParameter(f"{option}: {text!r}: {value!r} is neither true nor false")
    return _BOOLEANS[value.lower()]


def tmpfs(text: str) -> tuple[str, int]:
    """Returns the path that was given as `PATH[:OPTION,…]`, and its bytes."""
    path, _, options = text.partition(":")
    number = _TMPFS
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        if name == "size":
            number = size("--tmpfs", value)
        elif option not in _OF_TMPFS:
            raise typer.BadParameter(
                f"--tmpfs: {text!r}: {option} cannot be had; each is {','.join(sorted(_OF_TMPFS))}"
            )
    return path, number


def device(text: str) -> str:
    """Returns the path that was given as `PATH[:PATH[:ACCESS]]`."""
    path, _, rest = text.partition(":")
    inside, _, access = rest.partition(":")
    # Without m, which is for mknod(2), no program misses anything: there it is.
    if inside not in ("", path) or access not in ("", "rw", "rwm"):
        raise typer.BadParameter(f"--device: {text!r}: a device has its own path inside, and is rw")
    return path


def capabilities(added: Iterable[str], dropped: Iterable[str], *, sandbox: bool | None) -> list[str] | None:
    """Returns the capabilities that a container is given; None: as without the options.

    Args:
        added: those of `--cap-add`.
        dropped: those of `--cap-drop`. A sandbox has none, so that nothing is left to be dropped.
        sandbox: as `--sandbox` has it.
    """
    names = [_capability(name) for name in added]
    if "CAP_ALL" in names:
        raise typer.BadParameter("--cap-add: ALL is more than any program needs; name those that it needs")
    drops = {_capability(name) for name in dropped}
    if drops and sandbox is False and "CAP_ALL" not in drops:
        raise typer.BadParameter("--cap-drop: with --no-sandbox give ALL, and --cap-add for what is to stay")
    return names if names or drops else None


def _capability(name: str) -> str:
    name = name.upper()
    return name if name.startswith("CAP_") else f"CAP_{name}"


def security(texts: Iterable[str]) -> dict[str, object]:
    """Returns what `--security-opt` says: `seccomp`, if it is said."""
    found: dict[str, object] = {}
    for text in texts:
        name, value = [*re.split("[=:]", text, maxsplit=1), ""][:2]
        if name == "no-new-privileges" and _boolean("--security-opt", text, value):
            continue  # it is so in any case
        if name != "seccomp" or not value:
            raise typer.BadParameter(
                f"--security-opt: {text!r} is neither seccomp=unconfined|FILE nor no-new-privileges"
            )
        if value == "unconfined":
            found["seccomp"] = False
            continue
        try:
            found["seccomp"] = json.loads(Path(value).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise typer.BadParameter(f"--security-opt: {value} cannot be read: {error}") from None
        if not isinstance(found["seccomp"], dict):
            raise typer.BadParameter(f"--security-opt: {value} is not a JSON object")
    return found
