"""Options: what cannot be meant is refused with its name, and what was not said stays as it was."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import shimpy
from shimpy.client.bundle import derive_bundle
from shimpy.client.sandbox.base import new_spec
from shimpy.client.sandbox.options import Sandbox
from shimpy.client.sandbox.spec import apply
from tests.support.machine import RUNTIME


def spec_of(**options: Any) -> dict[str, Any]:
    """Returns the configuration of a directory with options."""
    sandbox = Sandbox.of_root(options)  # type: ignore[arg-type] # tests say what is not allowed
    spec = new_spec("/root", sandboxed=sandbox.sandboxed)
    apply(spec, sandbox, None)
    return spec


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memroy": 1}, "memroy"),
        ({"memory": "512m"}, "memory"),
        ({"memory": True}, "memory"),
        ({"cpus": "1"}, "cpus"),
        ({"pids": 1.5}, "pids"),
        ({"user": 1000}, "user"),
        ({"user": None}, "user"),
        ({"userns": "host"}, "userns"),
        ({"userns": None}, "userns"),
        ({"read_only": None}, "read_only"),
        ({"mounts": "/srv"}, "mounts"),
        ({"mounts": [("/srv", "/srv")]}, "mounts"),
        ({"mounts": [shimpy.BindMount("/srv", "/srv", 1)]}, "read_only"),  # type: ignore[arg-type]
        ({"tmpfs": ["/tmp"]}, "tmpfs"),
        ({"tmpfs": {"/tmp": "64m"}}, "tmpfs"),
        ({"network": None}, "network"),
        ({"seccomp": "unconfined"}, "seccomp"),
        ({"capabilities": "CAP_KILL"}, "capabilities"),
        ({"rlimits": ["RLIMIT_CORE"]}, "rlimits"),
        ({"devices": "/dev/null"}, "devices"),
        ({"devices": [5]}, "devices"),
        ({"hostname": 5}, "hostname"),
        ({"init": 5}, "init"),
        ({"sandbox": 1}, "sandbox"),
    ],
)
def test_what_is_of_the_wrong_type(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        spec_of(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mounts": [shimpy.BindMount("/no/such", "/x")]}, "mounts: there is no /no/such"),
        ({"mounts": [shimpy.BindMount("/srv", "x")]}, "mounts: 'x' is not an absolute path"),
        ({"mounts": [shimpy.BindMount("/srv", "/a/../b")]}, "mounts: '/a/../b' is not"),
        ({"mounts": [shimpy.BindMount("/srv", "/")]}, "mounts: '/' is not"),
        ({"mounts": [shimpy.BindMount("/srv", "/proc/x")]}, "mounts: /proc/x is below /proc"),
        ({"tmpfs": {"/tmp": 0}}, "tmpfs: the size"),
        ({"tmpfs": {"tmp": 1}}, "tmpfs: 'tmp' is not"),
        ({"network": "bridge"}, "network: 'bridge' is neither"),
        ({"network": "/no/such"}, "network: there is no /no/such"),
        ({"network": "/etc/passwd"}, "network: /etc/passwd is not a network namespace"),
        ({"network": "/proc/self/ns/pid"}, "network: /proc/self/ns/pid is not"),
        ({"network": "/dev/null"}, "network: /dev/null is not"),
        ({"devices": ["/no/such"]}, "devices: there is no /no/such"),
        ({"capabilities": ["KILL"]}, "capabilities: 'KILL'"),
        ({"rlimits": [shimpy.Rlimit("NOFILE", 1, 1)]}, "rlimits: 'NOFILE'"),
        ({"devices": ["/etc/passwd"]}, "devices: /etc/passwd is not a device"),
        ({"hostname": ""}, "hostname"),
        ({"hostname": "x" * 65}, "hostname"),
        ({"init": "tini"}, "init: tini is not"),
        ({"user": shimpy.User(-1)}, "user: -1"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(shimpy.InvalidArgumentError, match=f"^{said}"):
        spec_of(**options)


@pytest.mark.parametrize(
    "options",
    [{"memory": 0}, {"memory": (4 << 20) - 1}, {"cpus": 0}, {"cpus": 1e9}, {"pids": -1}, {"pids": 2**40}],
)
def test_limits_that_there_are_not(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        spec_of(**options)


def test_without_a_sandbox_it_is_the_runtimes_own_spec(tmp_path: Path) -> None:
    subprocess.run([RUNTIME, "spec"], cwd=tmp_path, check=True)
    theirs = json.loads((tmp_path / "config.json").read_text())
    ours = spec_of(sandbox=False)
    for spec in (ours, theirs):
        for mount in spec["mounts"]:
            mount["source"] = mount.get("source") if mount["type"] == "bind" else ""
        spec.pop("ociVersion")
        spec["process"].pop("terminal")
        spec["root"].pop("path")
        spec["mounts"] = [{"options": [], **mount} for mount in spec["mounts"]]
        spec["linux"]["maskedPaths"].sort()
    assert ours == theirs


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"memory": 1 << 26}, {"linux.resources"}),
        ({"memory": None}, {"linux.resources"}),
        ({"cpus": 0.5, "pids": 7}, {"linux.resources"}),
        ({"user": shimpy.User(5, 6, (7,))}, {"process.user"}),
        ({"mounts": [shimpy.BindMount("/srv", "/x")]}, {"mounts"}),
        ({"tmpfs": {"/x": 4096}}, {"mounts"}),
        ({"network": "host"}, {"linux.namespaces"}),
        ({"seccomp": True}, {"linux.seccomp"}),
        ({"capabilities": []}, {"process.capabilities"}),
        ({"rlimits": [shimpy.Rlimit("RLIMIT_NOFILE", 5, 5)]}, {"process.rlimits"}),
        ({"devices": ["/dev/null"]}, {"linux.devices", "linux.resources"}),
        ({"read_only": False}, {"root.readonly"}),
        ({"hostname": "x"}, {"hostname"}),
        ({"init": True}, {"process.args", "mounts"}),
    ],
)
def test_options_change_of_a_bundle_what_they_name(
    options: shimpy.SandboxOptions, changed: set[str], tmp_path: Path
) -> None:
    origin = new_spec("rootfs", sandboxed=False)
    origin["linux"]["resources"]["memory"] = {"limit": 5, "swap": 5}
    (tmp_path / "config.json").write_text(json.dumps(origin))
    target = tmp_path / "target"
    target.mkdir()
    derive_bundle(target, tmp_path, terminal=False, options=options)
    made = json.loads((target / "config.json").read_text())
    origin["root"]["path"] = str(tmp_path / "rootfs")
    assert _differences(origin, made) == changed


def _differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    found = set()
    for name in one.keys() | other.keys():
        if one.get(name) == other.get(name):
            continue
        if isinstance(one.get(name), dict) and name in ("process", "linux", "root"):
            found |= {f"{name}.{inner}" for inner in _differences(one[name], other[name])}
        else:
            found.add(name)
    return found


def test_a_bundle_runs_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(shimpy.InvalidArgumentError, match="sandbox: a bundle runs as it is written"):
        derive_bundle(tmp_path, tmp_path, terminal=False, options={"sandbox": True})


@pytest.mark.parametrize(
    ("counted", "memory"), [(True, {"limit": 1 << 30, "swap": 1 << 30}), (False, {"limit": 1 << 30})]
)
def test_swap_is_limited_where_it_can_be(
    counted: bool, memory: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shimpy.client.sandbox.spec.has_swap_limits", lambda: counted)
    assert spec_of(memory=1 << 30, sandbox=False)["linux"]["resources"]["memory"] == memory


def test_the_users_of_a_user_namespace_are_65536(tmp_path: Path) -> None:
    spec = copy.deepcopy(new_spec("/root", sandboxed=True))
    spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 1, "size": 65536}]
    with pytest.raises(shimpy.InvalidArgumentError, match="user: 65536 is not one of the 65536"):
        apply(spec, Sandbox.of_root({"user": shimpy.User(65536)}), None)
