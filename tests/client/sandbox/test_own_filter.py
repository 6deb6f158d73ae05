"""A filter of one's own: docker's conditions are settled, and what would be no filter is refused."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import shimpy
from shimpy.client.sandbox.own_filter import check_filter, settled

pytestmark = pytest.mark.anyio

_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"


def rule(*names: str, action: str = _ALLOW, **more: object) -> dict[str, Any]:
    """Returns a rule as docker's profiles have it."""
    return {"names": list(names), "action": action, **more}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "defaultAction is missing"),
        ({"x": 1}, "the filter has 'x'"),
        ({"defaultAction": _ALLOW, "syscall": []}, "the filter has 'syscall'"),
        ({"defaultAction": "ALLOW"}, "defaultAction 'ALLOW' is no action"),
        ({"defaultAction": []}, "defaultAction \\[\\] is no action"),
        ({"defaultAction": _ALLOW, "syscalls": {}}, "syscalls is not"),
        ({"defaultAction": _ALLOW, "syscalls": ["unshare"]}, "syscalls is not"),
        ({"defaultAction": _ALLOW, "syscalls": [{"action": _ERRNO}]}, "a rule without names"),
        ({"defaultAction": _ALLOW, "syscalls": [{"names": "bpf", "action": _ERRNO}]}, "names must be a list"),
        ({"defaultAction": _ALLOW, "syscalls": [{"names": ["bpf"]}]}, "action is missing"),
        ({"defaultAction": _ALLOW, "syscalls": [rule("bpf", action="DENY")]}, "action 'DENY' is no action"),
        ({"defaultAction": _ERRNO, "syscalls": [rule("bpf", include={})]}, "syscalls has 'include'"),
        ({"defaultAction": _ERRNO, "syscalls": [rule("bpf", includes=[])]}, "includes is not"),
        ({"defaultAction": _ERRNO, "syscalls": [rule("bpf", includes={"cap": []})]}, "includes has 'cap'"),
        ({"defaultAction": _ERRNO, "syscalls": [rule("bpf", excludes={"caps": "CAP_BPF"})]}, "caps must be"),
        ({"defaultAction": _ERRNO, "syscalls": [rule("bpf", includes={"minKernel": "new"})]}, "minKernel"),
        ({"defaultAction": _ERRNO, "archMap": [{}], "architectures": ["x"]}, "give architectures or"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_would_be_no_filter_is_refused(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(shimpy.InvalidArgumentError, match=f"^seccomp: {said}"):
        await shimpy.run(tmp_path, ["true"], seccomp=given)


@pytest.mark.parametrize(
    ("condition", "capabilities", "holds"),
    [
        ({}, [], True),
        ({"includes": {"caps": ["CAP_BPF"]}}, [], False),
        ({"includes": {"caps": ["CAP_BPF"]}}, ["CAP_BPF"], True),
        ({"includes": {"caps": ["CAP_BPF", "CAP_KILL"]}}, ["CAP_BPF"], False),
        ({"excludes": {"caps": ["CAP_BPF", "CAP_KILL"]}}, ["CAP_BPF"], False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, ["CAP_KILL"], True),
        ({"includes": {"arches": ["amd64", "x32"]}}, [], True),
        ({"includes": {"arches": ["arm64"]}}, [], False),
        ({"excludes": {"arches": ["amd64"]}}, [], False),
        ({"excludes": {"arches": ["arm64"]}}, [], True),
        ({"includes": {"minKernel": "4.8"}}, [], True),
        ({"includes": {"minKernel": "5.10"}}, [], True),
        ({"includes": {"minKernel": "5.11"}}, [], False),
        ({"excludes": {"minKernel": "4.8"}}, [], False),
        ({"excludes": {"minKernel": "5.11"}}, [], True),
        ({"includes": {"caps": ["CAP_BPF"]}, "excludes": {"arches": ["amd64"]}}, ["CAP_BPF"], False),
        ({"includes": None, "excludes": {}}, [], True),
    ],
    ids=str,
)
def test_docker_s_conditions_are_settled(
    condition: dict[str, Any], capabilities: list[str], holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64", release="5.10.0-rc1+"))
    given = {"defaultAction": _ERRNO, "syscalls": [rule("bpf", comment="for people", **condition)]}
    check_filter(given)
    assert settled(given, capabilities) == {
        "defaultAction": _ERRNO,
        "syscalls": [rule("bpf")] if holds else [],
    }


@pytest.mark.parametrize(
    ("machine", "architectures"),
    [("x86_64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]), ("aarch64", ["SCMP_ARCH_AARCH64"]), ("s390x", [])],
)
def test_the_architectures_are_those_of_the_machine(
    machine: str, architectures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine, release="6.1"))
    given = {
        "defaultAction": _ALLOW,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
        ],
    }
    check_filter(given)
    assert settled(given, [])["architectures"] == architectures


def test_a_machine_that_docker_s_names_are_not_known_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="vax", release="6.1"))
    given = {"defaultAction": _ALLOW, "syscalls": [rule("bpf", action=_ERRNO, excludes={"arches": ["vax"]})]}
    with pytest.raises(shimpy.InvalidArgumentError, match="docker's name for vax"):
        settled(given, [])


def test_the_runtime_spec_s_own_form_stays_as_it_is() -> None:
    given = {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["bpf"], "action": _ERRNO, "errnoRet": 1, "args": [{"index": 0, "value": 0}]}],
    }
    check_filter(given)
    assert settled(given, []) == given


def test_a_call_by_docker_s_oldest_word_for_it() -> None:
    given = {"defaultAction": _ERRNO, "syscalls": [{"name": "bpf", "action": _ALLOW}]}
    check_filter(given)
    assert settled(given, [])["syscalls"] == [rule("bpf")]


@pytest.mark.parametrize(("capabilities", "refused"), [([], True), (["CAP_SYS_ADMIN"], False)])
async def test_a_rule_for_a_capability_is_for_who_has_it(
    rootfs: Path, capabilities: list[str], refused: bool
) -> None:
    given = {
        "defaultAction": _ALLOW,
        "syscalls": [
            rule("unshare", action=_ERRNO, errnoRet=95, excludes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("unshare", includes={"caps": ["CAP_SYS_ADMIN"]}),
        ],
    }
    result = await shimpy.run(
        rootfs, ["unshare", "-m", "true"], seccomp=given, capabilities=capabilities, userns=False
    )
    assert (b"not supported" in result.stderr, result.exit_status == 0) == (refused, not refused)
