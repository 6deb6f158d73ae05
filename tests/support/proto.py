"""Generates shimpy/api from shim.proto: ``python -m tests.support.proto``, which is `make proto`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "shim.proto"
API = ROOT / "shimpy" / "api"
INCLUDE = API
"""Where `import "gogoproto/gogo.proto"` is found."""

GENERATED = ("__init__.py", "shim.binpb")


def generate(target: Path) -> None:
    """Writes what shimpy/api holds of generated files into *target*.

    ``__init__.py`` is betterproto's code; ``shim.binpb`` is a google.protobuf.FileDescriptorSet of
    shim.proto and all that it imports, which server reflection answers from.

    Raises:
        subprocess.CalledProcessError: the proto does not compile; protoc has said why on stderr.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--plugin=protoc-gen-python_betterproto={Path(sys.executable).parent}/protoc-gen-python_betterproto",
                f"-I{ROOT}",
                f"-I{INCLUDE}",
                f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
                f"--python_betterproto_out={folder}",
                f"--descriptor_set_out={folder / 'shim.binpb'}",
                "--include_imports",
                PROTO.name,
            ],
            cwd=ROOT,
            check=True,
        )
        # The plugin also writes empty packages for the folders above and for gogoproto.
        shutil.copyfile(folder / "containerd/shim/v1/__init__.py", target / "__init__.py")
        shutil.copyfile(folder / "shim.binpb", target / "shim.binpb")


if __name__ == "__main__":
    generate(API)
