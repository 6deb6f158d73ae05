"""The command where containerd finds it, what has to be configured, and what a machine lacks."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shimpy.daemon.containerd import configuration, doctor
from shimpy.daemon.containerd.install import install, uninstall
from shimpy.errors import AlreadyExistsError, InternalError, InvalidArgumentError, NotFoundError


def test_what_is_written_runs(tmp_path: Path) -> None:
    (path,) = install(str(tmp_path))
    done = subprocess.run(
        [path, "-v"], check=False, capture_output=True, text=True, cwd="/",
        env={"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"},
    )  # fmt: skip

    assert path == str(tmp_path / "bin" / "containerd-shim-shimpy-v2")
    assert done.stdout.startswith("containerd-shim-shimpy-v2: shimpy ")
    assert os.stat(path).st_mode & 0o777 == 0o755
    assert os.listdir(tmp_path / "bin") == ["containerd-shim-shimpy-v2"]


def test_an_interpreter_of_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "it's a path"
    interpreter.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    (path,) = install(str(tmp_path))
    done = subprocess.run([path, "-v"], check=True, capture_output=True, text=True)

    assert done.stdout.startswith("containerd-shim-shimpy-v2: shimpy ")


@pytest.mark.parametrize("shell", ["dash", "bash --posix", "busybox sh"])
def test_any_shell_runs_it(tmp_path: Path, shell: str) -> None:
    (path,) = install(str(tmp_path))
    done = subprocess.run(
        [*shell.split(), path, "-id", "a", "start"], check=False, capture_output=True, text=True,
        env={**os.environ, "SHIMPY_FORK_SERVER": "off"},
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (2, "containerd-shim-shimpy-v2: -namespace is missing\n")


def test_it_may_have_several_names(tmp_path: Path) -> None:
    paths = install(str(tmp_path), ["shimpy", "runc"])

    assert [os.path.basename(path) for path in paths] == [
        "containerd-shim-shimpy-v2",
        "containerd-shim-runc-v2",
    ]


def test_it_may_be_done_again(tmp_path: Path) -> None:
    assert install(str(tmp_path)) == install(str(tmp_path))


def test_another_program_is_not_overwritten(tmp_path: Path) -> None:
    other = tmp_path / "bin" / "containerd-shim-runc-v2"
    other.parent.mkdir()
    other.write_text("another")
    with pytest.raises(AlreadyExistsError, match=str(other)):
        install(str(tmp_path), ["shimpy", "runc"])

    assert other.read_text() == "another"
    assert os.listdir(other.parent) == [other.name]


@pytest.mark.parametrize("name", ["", "a/b", "a-b", "..", "a b", "é"])
def test_a_name_that_containerd_would_not_find(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="name"):
        install(str(tmp_path), [name])


def test_an_interpreter_that_cannot_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module named anything >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))

    with pytest.raises(InternalError, match="no module named anything"):
        install(str(tmp_path))
    assert not (tmp_path / "bin").exists()


def test_what_was_written_is_removed(tmp_path: Path) -> None:
    paths = install(str(tmp_path), ["shimpy", "runc"])
    other = tmp_path / "bin" / "containerd-shim-other-v2"
    other.write_text("another")

    assert sorted(uninstall(str(tmp_path))) == sorted(paths)
    assert os.listdir(tmp_path / "bin") == [other.name]


def test_only_one_of_them(tmp_path: Path) -> None:
    install(str(tmp_path), ["shimpy", "runc"])
    uninstall(str(tmp_path), ["runc"])

    assert os.listdir(tmp_path / "bin") == ["containerd-shim-shimpy-v2"]


@pytest.mark.parametrize("names", [(), ("shimpy",)])
def test_there_is_nothing_to_remove(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(NotFoundError):
        uninstall(str(tmp_path), names)


@pytest.mark.parametrize(
    ("major", "plugin"), [(1, "io.containerd.grpc.v1.cri"), (2, "io.containerd.cri.v1.runtime")]
)
def test_what_containerd_has_to_be_told(major: int, plugin: str) -> None:
    told = tomllib.loads(configuration.containerd_config(["shimpy"], major, restrict_oom_score=True))

    runtimes = {"runtimes": {"shimpy": {"runtime_type": "io.containerd.shimpy.v2"}}}
    assert told == {"plugins": {plugin: {"restrict_oom_score_adj": True, "containerd": runtimes}}}


def test_of_a_containerd_that_is_not_known_all_versions() -> None:
    told = tomllib.loads(configuration.containerd_config(["shimpy"], None, restrict_oom_score=False))

    assert sorted(told["plugins"]) == ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
    assert "restrict" not in str(told)


def test_what_kubernetes_has_to_be_told() -> None:
    assert configuration.runtime_class("shimpy").splitlines() == [
        "apiVersion: node.k8s.io/v1", "kind: RuntimeClass", "metadata:", "  name: shimpy", "handler: shimpy",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1", (1, 6)),
        ("containerd github.com/containerd/containerd/v2 v2.1.9 b2f1f0c", (2, 1)),
        ("5.4.0-42-generic", (5, 4)),
        ("", None),
    ],
)
def test_a_version_is_found(text: str, version: tuple[int, int] | None) -> None:
    assert doctor.version_of(text) == version


def findings(path: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, doctor.Verdict]:
    """Returns what a doctor finds who has a PATH of his own; of several about one thing the last."""
    monkeypatch.setenv("PATH", path)
    return {finding.what: finding.verdict for finding in doctor.examine()}


def program(directory: Path, name: str, says: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def test_a_machine_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(str(tmp_path), monkeypatch)

    assert {what for what, verdict in found.items() if verdict == "missing"} >= {
        "runtime",
        "containerd",
        "shim",
    }
    assert found["criu"] == "note"


def test_a_machine_with_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "runc", "runc version 1.4.0")
    program(tmp_path, "containerd", "containerd github.com/containerd/containerd/v2 v2.1.9")
    program(tmp_path, "containerd-shim-shimpy-v2", "containerd-shim-shimpy-v2: shimpy 0.1.0")
    program(tmp_path, "criu", "Version: 4.0")
    found = findings(str(tmp_path), monkeypatch)

    assert {found[what] for what in ("runtime", "containerd", "shim", "criu", "kernel")} == {"ok"}


def test_a_containerd_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "containerd", "containerd github.com/containerd/containerd 1.4.13")

    assert findings(str(tmp_path), monkeypatch)["containerd"] == "missing"


def test_a_runc_with_known_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "runc", "runc version 1.1.5")

    assert findings(str(tmp_path), monkeypatch)["runtime"] == "note"


def test_a_shim_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "containerd-shim-shimpy-v2"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)

    assert findings(str(tmp_path), monkeypatch)["shim"] == "missing"
