"""What is read out of a bundle's `config.json`, whoever has written it (OCI runtime-spec, config.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shimpy.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from shimpy.client.model import StrPath

T = TypeVar("T")


def read_config(bundle: StrPath) -> dict[str, Any]:
    """Returns a bundle's `config.json`.

    Raises:
        NotFoundError: there is none.
        InvalidArgumentError: it cannot be understood.
    """
    path = Path(bundle) / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"bundle: there is no {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"bundle: {path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgumentError(f"bundle: {path} is not a JSON object")
    return config


def wants_terminal(bundle: StrPath) -> bool:
    """Returns whether the init of a bundle gets a terminal.

    Raises:
        NotFoundError: it has no `config.json`.
        InvalidArgumentError: that cannot be understood.
    """
    return bool(object_in(read_config(bundle), "process").get("terminal"))


def object_in(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns a part of a configuration, from now on if not before; to the runtime null is nothing too."""
    found = config.get(name)
    if found is None:
        found = config[name] = {}
    return _checked(found, name, dict)


def list_in(config: dict[str, Any], name: str, kind: type[T]) -> list[T]:
    """Returns a list of a configuration; none is an empty one."""
    found = config.get(name)
    return [_checked(entry, name, kind) for entry in _checked([] if found is None else found, name, list)]


def string_in(config: dict[str, Any], name: str, default: str) -> str:
    """Returns a string of a configuration, or a default."""
    found = config.get(name)
    return default if found is None else _checked(found, name, str)


def _checked(found: object, name: str, kind: type[T]) -> T:
    if not isinstance(found, kind):
        raise InvalidArgumentError(f"bundle: {name} in its config.json is not as the runtime-spec has it")
    return found
