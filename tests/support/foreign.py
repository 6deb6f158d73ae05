"""Google's own client, compiled from the proto: what any client in another language does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import grpc_tools
from grpc_tools import protoc

from tests.support.proto import INCLUDE, PROTO


def compile_client(directory: Path) -> tuple[ModuleType, ModuleType]:
    """Compiles shim.proto with grpcio's own compiler, and returns the messages' and the stubs' module.

    Args:
        directory: an empty directory for what is generated; it stays on sys.path.
    """
    google = Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main([
        "protoc",
        f"-I{PROTO.parent}",
        f"-I{INCLUDE}",
        f"-I{google}",
        f"--python_out={directory}",
        f"--grpc_python_out={directory}",
        PROTO.name,
        "gogoproto/gogo.proto",
    ])  # fmt: skip
    assert status == 0
    sys.path.insert(0, str(directory))
    return importlib.import_module("shim_pb2"), importlib.import_module("shim_pb2_grpc")
