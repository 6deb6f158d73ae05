"""Generates shimpy/api from the protos: `python -m tests.support.proto`, which is `make proto`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import grpc_tools

from tests.support.paths import ROOT

PROTO = ROOT / "shim.proto"
API = ROOT / "shimpy" / "api"

# Where `import "gogoproto/gogo.proto"` is found.
INCLUDE = API

# Which package of betterproto's code becomes which module of shimpy/api: those with gRPC services.
CODE = {
    "shim.py": "containerd/shim/v1",
    "health.py": "grpc/health/v1",
    "reflection.py": "grpc/reflection/v1",
}

# Which protos become which module of messages alone, without grpclib.
MESSAGES = {
    "well_known": ("well_known.proto",),
    "types": ("containerd/types/types.proto", "containerd/v1/types/process.proto"),
    "task": ("containerd/task/v2/task.proto",),
    "events": ("containerd/events/task.proto", "containerd/services/events/ttrpc/v1/events.proto"),
    "bootstrap": ("containerd/runtime/bootstrap/v1/bootstrap.proto",),
    "linux_options": ("containerd/linux/runc/options.proto",),
    "runc_options": ("containerd/runc/v1/options.proto",),
    "runtime_options": ("runtimeoptions/v1/options.proto",),
    "metrics_v1": ("io/containerd/cgroups/v1/metrics.proto",),
    "metrics_v2": ("io/containerd/cgroups/v2/metrics.proto",),
}

GENERATED = (*CODE, *(f"{module}.py" for module in MESSAGES), "shim.binpb")

_PACKAGE = re.compile(r"^package ([\w.]+);\n", re.MULTILINE)
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)
_SERVICE = re.compile(r"^service \w+ \{\n(?:  .*\n)*\}\n", re.MULTILINE)
_WELL_KNOWN = re.compile(r'"google/protobuf/\w+\.proto"')


def generate(target: Path) -> None:
    """Writes what shimpy/api holds of generated files into *target*.

    The modules are betterproto's code; `shim.binpb` is a google.protobuf.FileDescriptorSet of all that is
    served, with all that it imports, which server reflection answers from.

    Raises:
        subprocess.CalledProcessError: a proto does not compile; protoc has said why on stderr.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        alpha = directory / "grpc/reflection/v1alpha/reflection.proto"
        alpha.parent.mkdir(parents=True)
        current = INCLUDE / "grpc/reflection/v1/reflection.proto"
        alpha.write_text(current.read_text().replace("grpc.reflection.v1;", "grpc.reflection.v1alpha;"))
        task = INCLUDE / "containerd/task/v2/task.proto"
        newer = directory / "containerd/task/v3/task.proto"
        newer.parent.mkdir(parents=True)
        newer.write_text(task.read_text().replace("containerd.task.v2", "containerd.task.v3"))
        protos = [
            PROTO,
            task,
            newer,
            INCLUDE / "grpc/health/v1/health.proto",
            current,
            alpha,
        ]
        descriptors = [f"--descriptor_set_out={directory / 'shim.binpb'}", "--include_imports"]
        _compile(directory, [INCLUDE, directory, ROOT], protos, *descriptors)
        # The plugin also writes empty packages for the directories above and for gogoproto.
        for module, package in CODE.items():
            shutil.copyfile(directory / package / "__init__.py", target / module)
        shutil.copyfile(directory / "shim.binpb", target / "shim.binpb")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _compile(directory, [directory], _flattened(directory))
        for module in MESSAGES:
            code = (directory / module / "__init__.py").read_text()
            # The plugin makes each module a package, one directory deeper than it is here.
            (target / f"{module}.py").write_text(
                re.sub(r"^from \.\. import", "from . import", code, flags=re.MULTILINE)
            )


def _flattened(directory: Path) -> list[Path]:
    """Writes the protos of MESSAGES into a directory with the module as the package, and without services."""
    sources = {
        path: (module, (API / path).read_text()) for module, paths in MESSAGES.items() for path in paths
    }
    modules = {"google.protobuf": "well_known"}
    for module, text in sources.values():
        modules.update(dict.fromkeys(_PACKAGE.findall(text), module))
    qualified = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, modules))})\.(?=[A-Z])")
    for path, (module, text) in sources.items():
        imports = dict.fromkeys(_WELL_KNOWN.sub('"well_known.proto"', line) for line in _IMPORT.findall(text))
        lines = "".join([f"package {module};\n", *imports])
        messages = _PACKAGE.sub(lines, _IMPORT.sub("", _SERVICE.sub("", text)))
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(qualified.sub(lambda found: f"{modules[found[1]]}.", messages))
    return [directory / path for path in sources]


def _compile(out: Path, includes: Iterable[Path], protos: Iterable[Path], *options: str) -> None:
    """Runs protoc with betterproto's plugin."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--plugin=protoc-gen-python_betterproto={Path(sys.executable).parent}/protoc-gen-python_betterproto",
            *(f"-I{include}" for include in includes),
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            f"--python_betterproto_out={out}",
            *options,
            *map(str, protos),
        ],
        cwd=ROOT,
        check=True,
    )


if __name__ == "__main__":
    generate(API)
