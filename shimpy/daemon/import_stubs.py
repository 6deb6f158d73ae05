"""Keeps out of `python -m shimpy` what its libraries import and a shim never uses.

A supervisor starts one shim for each container, so what a start costs is paid each time. Of the time
and memory of the plain imports, about a third goes to features that a shim never uses:
TLS (asyncio and grpclib can do without, and say so), what `typing` of older Pythons lacked,
paths as objects, the name of the platform, the version of betterproto, dates in JSON, the message classes of
protobuf's own compiler, of which the API names one, Empty, and the signatures that dataclasses write as
docstrings.

No other program is affected: this is for a process that is a shim and nothing else, and the stubs are
removed once the imports are done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import sys
import typing
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

_PROTOBUF = "betterproto.lib.google.protobuf"
_TYPING = "typing_extensions"


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """While it is open, importing grpclib and betterproto leaves those out, and collects no garbage."""
    stand_ins: dict[str, ModuleType | None] = {
        # None has `import ssl` raise ModuleNotFoundError, as on a Python that was built without it.
        "ssl": None,
        "ipaddress": _module("ipaddress"),
        "pathlib": _module("pathlib", Path=_NoPath),
        "platform": _module("platform", __getattr__=_no_platform),
        _TYPING: _module(_TYPING, **_typing(), __getattr__=_other_typing),
        "importlib.metadata": _module("importlib.metadata", version=_no_version),
        "dateutil": _module("dateutil"),
        "dateutil.parser": _module("dateutil.parser", isoparse=_no_dates),
        **_protobuf(),
    }
    placed = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    # The placeholder None is not in the type of sys.modules, but in its documentation.
    modules: dict[str, Any] = sys.modules
    modules.update(placed)
    # What modules are made of stays: looking through it again and again takes a tenth of the time.
    collecting = gc.isenabled()
    gc.disable()
    # Of a class without a docstring; it takes a fifth of the time in which the class is made.
    inspecting = vars(dataclasses)["inspect"]
    vars(dataclasses)["inspect"] = _module(
        "inspect", signature=_no_signature, __getattr__=lambda name: getattr(inspecting, name)
    )
    try:
        yield
    finally:
        vars(dataclasses)["inspect"] = inspecting
        if collecting:
            gc.enable()
        for name, module in placed.items():
            if modules.get(name, module) is module:
                modules.pop(name, None)


def _module(name: str, **contents: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module


def _no_signature(_class: type) -> str:
    return ""


class _NoPath:
    """Stands for pathlib.Path, which multidict has in case that somebody compiles against it."""


def _no_platform(_name: str) -> Callable[[], str]:
    """Returns what says nothing: what is asked for is told by a gRPC client, and whether this is PyPy."""
    return str


def _typing() -> dict[str, object]:
    """Returns what betterproto has from typing_extensions, as `typing` has it."""
    return {name: getattr(typing, name) for name in ("Concatenate", "ParamSpec", "Self")}


def _other_typing(name: str) -> object:
    """Imports the module itself, for others than betterproto."""
    if name.startswith("__"):
        raise AttributeError(name)
    del sys.modules[_TYPING]
    return getattr(importlib.import_module(_TYPING), name)


def _no_version(_package: str) -> str:
    return ""


def _no_dates(text: str) -> object:
    raise NotImplementedError(f"no message of a shim has a date: {text}")


def _protobuf() -> dict[str, ModuleType | None]:
    protobuf = _module(_PROTOBUF, __getattr__=_message)
    google = _module("betterproto.lib.google", protobuf=protobuf)
    lib = _module("betterproto.lib", google=google)
    return {"betterproto.lib": lib, "betterproto.lib.google": google, _PROTOBUF: protobuf}


def _message(name: str) -> type:
    """Makes one of protobuf's own messages when it is asked for: an empty one, which Empty is.

    The others are named by betterproto for fields of types that the API does not have.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    import betterproto

    made = dataclasses.make_dataclass(name, [], bases=(betterproto.Message,), eq=False, repr=False)
    made.__module__ = _PROTOBUF
    setattr(sys.modules[_PROTOBUF], name, made)
    return made
