"""Generates shimpy/api from the protos: ``python -m tests.support.proto``, which is `make proto`."""

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

CODE = {
    "__init__.py": "containerd/shim/v1",
    "health.py": "grpc/health/v1",
    "reflection.py": "grpc/reflection/v1",
}
"""Which package of betterproto's code becomes which module of shimpy/api."""

GENERATED = (*CODE, "shim.binpb")


def generate(target: Path) -> None:
    """Writes what shimpy/api holds of generated files into *target*.

    The modules are betterproto's code; ``shim.binpb`` is a google.protobuf.FileDescriptorSet of all that is
    served, with all that it imports, which server reflection answers from.

    Raises:
        subprocess.CalledProcessError: a proto does not compile; protoc has said why on stderr.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alpha = folder / "grpc/reflection/v1alpha/reflection.proto"
        alpha.parent.mkdir(parents=True)
        current = INCLUDE / "grpc/reflection/v1/reflection.proto"
        alpha.write_text(current.read_text().replace("grpc.reflection.v1;", "grpc.reflection.v1alpha;"))
        protos = [
            PROTO,
            INCLUDE / "grpc/health/v1/health.proto",
            current,
            alpha,
        ]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--plugin=protoc-gen-python_betterproto={Path(sys.executable).parent}/protoc-gen-python_betterproto",
                f"-I{INCLUDE}",
                f"-I{folder}",
                f"-I{ROOT}",
                f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
                f"--python_betterproto_out={folder}",
                f"--descriptor_set_out={folder / 'shim.binpb'}",
                "--include_imports",
                *map(str, protos),
            ],
            cwd=ROOT,
            check=True,
        )
        # The plugin also writes empty packages for the folders above and for gogoproto.
        for module, package in CODE.items():
            shutil.copyfile(folder / package / "__init__.py", target / module)
        shutil.copyfile(folder / "shim.binpb", target / "shim.binpb")


if __name__ == "__main__":
    generate(API)
