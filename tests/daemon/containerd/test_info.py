"""`-info` and `-v`, and what is said of a bad command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shimpy.api import runc_options, runtime_options, types, well_known
from shimpy.daemon.containerd.info import runtime_name
from tests.support.shimv2 import COMMAND


def call(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the command."""
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, check=False, timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip


def info(stdin: bytes = b"", **environment: str) -> types.RuntimeInfo:
    """Returns the answer to -info."""
    done = call("-info", stdin=stdin, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    return types.RuntimeInfo().parse(done.stdout)


def program(directory: Path, script: str) -> str:
    """Writes a runtime and returns its path."""
    path = directory / "runtime"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_who_it_is() -> None:
    told = info()

    assert told.name == "io.containerd.shimpy.v2"
    assert told.version.version
    assert told.annotations == {}


def test_what_runc_can_do() -> None:
    features = info().features

    assert features.type_url == "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    assert "ociVersionMin" in json.loads(features.value)


def test_the_runtime_is_that_of_the_options(tmp_path: Path) -> None:
    runtime = program(tmp_path, """[ "$*" = features ] && echo '{"mine": true}'""")
    options = well_known.Any("containerd.runc.v1.Options", bytes(runc_options.Options(binary_name=runtime)))
    told = info(bytes(options))

    assert json.loads(told.features.value) == {"mine": True}
    assert told.options == options


def test_the_runtime_is_that_of_a_table(tmp_path: Path) -> None:
    runtime = program(tmp_path, "echo '{}'")
    table = runtime_options.Options(config_body=f'BinaryName = "{runtime}"\n'.encode())
    told = info(bytes(well_known.Any("runtimeoptions.v1.Options", bytes(table))))

    assert told.features.value == b"{}\n"


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "echo '[]'", "kill -9 $$"])
def test_a_runtime_that_does_not_know_the_question(tmp_path: Path, script: str) -> None:
    options = runc_options.Options(binary_name=program(tmp_path, script))
    told = info(bytes(well_known.Any("containerd.runc.v1.Options", bytes(options))))

    assert told.name == "io.containerd.shimpy.v2"
    assert told.features.type_url == ""


def test_a_runtime_that_is_not_there() -> None:
    options = runc_options.Options(binary_name="/no/such/runtime")
    done = call("-info", stdin=bytes(well_known.Any("containerd.runc.v1.Options", bytes(options))))

    assert done.returncode == 1
    assert b"/no/such/runtime" in done.stderr


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/local/bin/containerd-shim-shimpy-v2", "io.containerd.shimpy.v2"),
        ("containerd-shim-runc-v2", "io.containerd.runc.v2"),
        ("/x/__main__.py", "io.containerd.shimpy.v2"),
    ],
)
def test_its_name_is_what_it_was_called_by(path: str, name: str) -> None:
    assert runtime_name(path) == name


def test_its_version() -> None:
    done = call("-v")

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"shimpy" in done.stdout
    assert sys.version.split()[0].encode() in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "start nor delete"),
        (["-namespace", "ns", "-id", "web", "stop"], "'stop'"),
        (["-id", "web", "start"], "-namespace"),
        (["-namespace", "ns", "delete"], "-id"),
        (["-nonsense"], "-nonsense"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], said: str) -> None:
    done = call(*arguments)

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().count("\n") == 1
    assert said in done.stderr.decode()


def test_it_does_without_standard_descriptors() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" 0<&- 2<&-', "sh", *COMMAND, "-v"], capture_output=True, check=False
    )

    assert done.returncode == 0
