"""The options of a sandbox at the command line, by docker's names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import shimpy
from shimpy.cli import option_values
from shimpy.cli.option_values import size
from shimpy.cli.sandbox_options import sandbox_options
from tests.support.commandline import CommandLine, command_line


@pytest.fixture(scope="module")
def line() -> Iterator[CommandLine]:
    """Runs command lines to their ends."""
    with command_line() as line:
        yield line


def _read(**given: Any) -> dict[str, Any]:
    return dict(sandbox_options(**given))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, {}),
        ({"memory": "1g"}, {"memory": 1 << 30}),
        ({"memory": "0"}, {"memory": None}),
        ({"pids_limit": 7}, {"pids": 7}),
        ({"pids_limit": -1}, {"pids": None}),
        ({"cpus": 0.5}, {"cpus": 0.5}),
        ({"userns": "host"}, {"userns": False}),
        ({"userns": "private"}, {"userns": True}),
        ({"volume": ["/a:/b"]}, {"mounts": [shimpy.BindMount("/a", "/b", read_only=False)]}),
        ({"volume": ["/a:/b:ro"]}, {"mounts": [shimpy.BindMount("/a", "/b", read_only=True)]}),
        ({"mount": ["type=bind,src=/a,dst=/b,readonly"]}, {"mounts": [shimpy.BindMount("/a", "/b", True)]}),
        ({"mount": ["source=/a,target=/b"]}, {"mounts": [shimpy.BindMount("/a", "/b", False)]}),
        ({"mount": ["src=/a,dst=/b,readonly=false"]}, {"mounts": [shimpy.BindMount("/a", "/b", False)]}),
        ({"mount": ["source=/a,target=/b,ro=1"]}, {"mounts": [shimpy.BindMount("/a", "/b", True)]}),
        ({"volume": ["/a:/b:ro,z"]}, {"mounts": [shimpy.BindMount("/a", "/b", read_only=True)]}),
        ({"volume": ["/a:/b:Z,cached"]}, {"mounts": [shimpy.BindMount("/a", "/b", read_only=False)]}),
        ({"tmpfs": ["/b:rw,nosuid,size=2m", "/c:size=1m,mode=1777"]},
         {"tmpfs": {"/b": 2 << 20, "/c": 1 << 20}}),
        ({"device": ["/dev/x:/dev/x", "/dev/y:/dev/y:rwm"]}, {"devices": ["/dev/x", "/dev/y"]}),
        ({"security_opt": ["no-new-privileges:true", "seccomp:unconfined"]}, {"seccomp": False}),
        ({"cap_drop": ["ALL"]}, {"capabilities": []}),
        ({"cap_drop": ["ALL"], "cap_add": ["chown"], "sandbox": False},
         {"sandbox": False, "capabilities": ["CAP_CHOWN"]}),
        ({"cap_drop": ["net_raw"], "cap_add": ["chown"]}, {"capabilities": ["CAP_CHOWN"]}),
        ({"mount": ["type=tmpfs,target=/b,tmpfs-size=2k"]}, {"tmpfs": {"/b": 2048}}),
        ({"tmpfs": ["/b:size=1m", "/c"]}, {"tmpfs": {"/b": 1 << 20, "/c": 64 << 20}}),
        ({"cap_add": ["net_raw", "CAP_CHOWN"]}, {"capabilities": ["CAP_NET_RAW", "CAP_CHOWN"]}),
        ({"security_opt": ["seccomp=unconfined", "no-new-privileges"]}, {"seccomp": False}),
        ({"ulimit": ["nofile=5:6"]}, {"rlimits": [shimpy.Rlimit("RLIMIT_NOFILE", 5, 6)]}),
        ({"sandbox": False, "init": False, "read_only": False},
         {"sandbox": False, "init": False, "read_only": False}),
        ({"device": ["/dev/x"], "network": "host", "hostname": "h"},
         {"devices": ["/dev/x"], "network": "host", "hostname": "h"}),
    ],
)  # fmt: skip
def test_what_is_given_is_meant(given: dict[str, Any], meant: dict[str, Any]) -> None:
    assert _read(**given) == meant


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"memory": "much"}, "--memory"),
        ({"memory": "-1"}, "--memory"),
        ({"userns": "other"}, "--userns"),
        ({"volume": ["/a"]}, "--volume"),
        ({"volume": ["/a:/b:slave"]}, "--volume"),
        ({"volume": ["/a:/b:ro,rw"]}, "--volume"),
        ({"mount": ["type=volume,target=/a"]}, "--mount"),
        ({"mount": ["type=bind,target=/a"]}, "--mount"),
        ({"mount": ["type=bind,source=/a,target=/a,colour=red"]}, "--mount"),
        ({"mount": ["type=tmpfs,source=/x,target=/a"]}, "--mount"),
        ({"mount": ["type=tmpfs,target=/a,readonly"]}, "--mount"),
        ({"mount": ["source=/a,target=/a,tmpfs-size=1m"]}, "--mount"),
        ({"mount": ["source=/a,target=/a,readonly=maybe"]}, "--mount"),
        ({"tmpfs": ["/a:mode=755"]}, "--tmpfs"),
        ({"tmpfs": ["/a:noexec"]}, "--tmpfs: '/a:noexec': noexec cannot be had"),
        ({"device": ["/dev/x:/dev/y"]}, "--device"),
        ({"device": ["/dev/x:/dev/x:r"]}, "--device"),
        ({"cap_add": ["ALL"]}, "--cap-add: ALL"),
        ({"cap_drop": ["CHOWN"], "sandbox": False}, "--cap-drop"),
        ({"security_opt": ["no-new-privileges:false"]}, "--security-opt"),
        ({"security_opt": ["no-new-privileges=maybe"]}, "--security-opt"),
        ({"security_opt": ["apparmor=x"]}, "--security-opt"),
        ({"security_opt": ["seccomp=/no/such"]}, "--security-opt"),
        ({"ulimit": ["nofile"]}, "--ulimit"),
        ({"ulimit": ["nofile=x"]}, "--ulimit: 'nofile=x'"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"^{named}"):
        _read(**given)


@pytest.mark.parametrize(
    ("command", "option", "status"),
    [
        ("run", ("--cpus", "0"), 125),
        ("run", ("--cpus", "99999"), 125),
        ("run", ("--timeout", "-1"), 125),
        ("run", ("--timeout", "nan"), 125),
        ("bundle", ("--cpus", "0"), 2),
    ],
)
def test_a_number_that_is_out_of_range_is_one_line(
    line: CommandLine, rootfs: Path, tmp_path: Path, command: str, option: tuple[str, str], status: int
) -> None:
    rest = (rootfs, "true") if command == "run" else (tmp_path / "bundle", "--rootfs", rootfs)
    done = line.run(command, *option, *rest)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert done.stderr.startswith(f"shimpy: {option[0].strip('-')} must be ")


def test_a_volume_is_not_labelled_where_it_would_have_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "enforce").touch()
    monkeypatch.setattr(option_values, "_SELINUX", str(tmp_path / "enforce"))
    with pytest.raises(typer.BadParameter, match=r"^--volume: .*chcon"):
        _read(volume=["/a:/b:Z"])


def test_rm_is_what_happens_anyway(line: CommandLine, rootfs: Path) -> None:
    done = line.run("run", "--rm", rootfs, "echo", "it")
    assert (done.returncode, done.stdout, done.stderr) == (0, "it\n", "")


@pytest.mark.parametrize("text", ["[]", "5", "null", "[" * 100_000])
def test_a_filter_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "filter.json").write_text(text)
    with pytest.raises(typer.BadParameter, match=f"^--security-opt: {tmp_path}/filter.json"):
        _read(security_opt=[f"seccomp={tmp_path}/filter.json"])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5),
        ("5b", 5),
        ("1.5g", 3 << 29),
        ("0.5", 1),
        ("2k", 2048),
        ("2K", 2048),
        ("3mb", 3 << 20),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes(text: str, number: int) -> None:
    assert size("--memory", text) == number


def test_a_filter_of_ones_own_is_read(tmp_path: Path) -> None:
    filter_ = {"defaultAction": "SCMP_ACT_ALLOW"}
    (tmp_path / "filter.json").write_text(json.dumps(filter_))
    assert _read(security_opt=[f"seccomp={tmp_path}/filter.json"]) == {"seccomp": filter_}


def test_a_sandbox_as_it_was_asked_for(line: CommandLine, rootfs: Path) -> None:
    done = line.run(
        "run", "-m", "64m", "--pids-limit", "50", "--cpus", "0.5", "-u", "user:7",
        "-v", "/usr/share:/tmp/share:ro", "--tmpfs", "/tmp:size=1m", "--cap-add", "chown",
        "--ulimit", "nofile=99", "--hostname", "box", "--no-init", rootfs, "sh", "-c",
        "id -u; id -g; df -k /tmp | tail -n 1 | tr -s ' ' | cut -d' ' -f2; ulimit -n; hostname;"
        "cat /proc/1/comm; ls /tmp; :",
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("1000\n7\n1024\n99\nbox\nsh\nshare\n", "")


def test_a_user_that_the_root_does_not_know(line: CommandLine, rootfs: Path) -> None:
    done = line.run("run", "-u", "nobody-there", rootfs, "true")
    assert (done.returncode, "--user" in done.stderr) == (127, True)


def test_without_a_sandbox_it_is_the_hosts_root(line: CommandLine, rootfs: Path) -> None:
    done = line.run("run", "--no-sandbox", rootfs, "cat", "/proc/self/uid_map")
    assert done.stdout.split() == ["0", "0", str(2**32 - 1)]


def test_the_network_is_the_hosts_if_that_is_said(line: CommandLine, rootfs: Path) -> None:
    done = line.run("run", "--network", "host", rootfs, "readlink", "/proc/self/ns/net")
    assert done.stdout.strip() == os.readlink("/proc/self/ns/net")


def test_a_bundle_with_options(line: CommandLine, rootfs: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    done = line.run("bundle", bundle, "--rootfs", rootfs, "-m", "4m", "--writable", "--", "true")
    assert (done.returncode, done.stderr) == (0, "")
    config = json.loads((bundle / "config.json").read_text())
    assert (config["linux"]["resources"]["memory"]["limit"], config["root"]["readonly"]) == (4 << 20, False)
