"""Messages and gRPC services, generated from the protos beside them (`make proto`).

The names of containerd.shim.v1 are found here, and loaded when the first of them is asked for. The modules of
messages alone need betterproto without gRPC: a shim that speaks ttrpc has no use for grpclib and h2.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .shim import *

_CLIENT = "betterproto.grpc.grpclib_client"


def _import_betterproto() -> None:
    """Imports betterproto with the base class of its gRPC clients left until it is asked for."""
    if "betterproto" in sys.modules or _CLIENT in sys.modules:
        return
    stand_in = ModuleType(_CLIENT)
    vars(stand_in)["ServiceStub"] = None
    sys.modules[_CLIENT] = stand_in
    try:
        betterproto = importlib.import_module("betterproto")
    finally:
        del sys.modules[_CLIENT]

    def find(name: str) -> Any:
        if name != "ServiceStub":
            raise AttributeError(f"module 'betterproto' has no attribute {name!r}")
        vars(betterproto)[name] = found = importlib.import_module(_CLIENT).ServiceStub
        return found

    del betterproto.ServiceStub
    # How a module finds what it does not have (PEP 562).
    vars(betterproto)["__getattr__"] = find


_import_betterproto()


def __getattr__(name: str) -> Any:
    # `from shimpy.api import task` asks for the module here before it imports it; messages begin with a capital.
    if not name[:1].isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    shim = importlib.import_module(f"{__name__}.shim")
    try:
        found = globals()[name] = getattr(shim, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return found
