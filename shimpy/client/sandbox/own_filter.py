"""A filter of system calls that the user gives: the runtime-spec's form, or that of docker's profiles.

A runtime takes what it does not know for nothing: without a default action there is no filter at all, and a
rule that docker has for some capability is one for everybody. So a filter is checked, and docker's
conditions are settled here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from shimpy.errors import InvalidArgumentError

# config-linux.md, seccomp.
_ACTIONS: Final = frozenset(
    f"SCMP_ACT_{name}"
    for name in (
        *("ALLOW", "ERRNO", "LOG", "NOTIFY", "TRACE", "TRAP"),
        *("KILL", "KILL_PROCESS", "KILL_THREAD"),
    )
)
_FIELDS: Final = frozenset(
    {"defaultAction", "defaultErrnoRet", "architectures", "archMap", "syscalls"}
    | {"flags", "listenerPath", "listenerMetadata"}
)
_RULE_FIELDS: Final = frozenset({"names", "name", "action", "errnoRet", "args", "includes", "excludes"})
_CONDITIONS: Final = frozenset({"caps", "arches", "minKernel"})

# For people; podman's profiles have the names of errors beside their numbers.
_IGNORED: Final = frozenset({"comment", "errno", "defaultErrno"})

# By the machine's name (uname(2)): docker's, and libseccomp's.
_MACHINES: Final = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}


def check_filter(given: Mapping[str, object]) -> None:
    """Refuses what would be no filter, or another than it says.

    Raises:
        InvalidArgumentError: what is missing or not known.
    """
    _known("the filter", given, _FIELDS)
    _action("defaultAction", given.get("defaultAction"))
    if given.get("architectures") and given.get("archMap"):
        raise InvalidArgumentError("seccomp: give architectures or archMap, not both")
    _strings("architectures", given.get("architectures"))
    for entry in _objects("archMap", given.get("archMap")):
        _known("archMap", entry, frozenset({"architecture", "subArchitectures"}))
        _strings("subArchitectures", entry.get("subArchitectures"))
    for rule in _objects("syscalls", given.get("syscalls")):
        _known("syscalls", rule, _RULE_FIELDS)
        if not _names(rule):
            raise InvalidArgumentError(f"seccomp: a rule without names: {dict(rule)!r:.200}")
        _action("action", rule.get("action"))
        for field in ("includes", "excludes"):
            condition = rule.get(field)
            _objects(field, [] if condition is None else [condition])
            _check_condition(field, condition or {})


def settled(given: Mapping[str, Any], capabilities: Iterable[str]) -> dict[str, Any]:
    """Returns a filter that has been checked as the runtime-spec has it, with the rules that hold here.

    Args:
        given: the filter. What it says of capabilities, machines and kernels is taken as by docker.
        capabilities: those that a container may have.
    """
    made = {name: given[name] for name in given.keys() - _IGNORED - {"archMap"}}
    if given.get("archMap"):
        own = _machine()[1]
        found = [entry for entry in given["archMap"] if entry.get("architecture") == own]
        made["architectures"] = [own, *(found[0].get("subArchitectures") or ())] if found else []
    bounding = frozenset(capabilities)
    made["syscalls"] = [
        {
            "names": _names(rule),
            **{name: rule[name] for name in ("action", "errnoRet", "args") if name in rule},
        }
        for rule in given.get("syscalls") or ()
        if _holds(rule, bounding)
    ]
    return made


def _holds(rule: Mapping[str, Any], bounding: frozenset[str]) -> bool:
    """Returns whether all is so that a rule wants, and nothing that excludes it."""
    wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
    if unwanted.get("arches") and _machine()[0] in unwanted["arches"]:
        return False
    if not bounding.isdisjoint(unwanted.get("caps") or ()):
        return False
    if unwanted.get("minKernel") and _kernel() >= _version(unwanted["minKernel"]):
        return False
    if wanted.get("arches") and _machine()[0] not in wanted["arches"]:
        return False
    if wanted.get("minKernel") and _kernel() < _version(wanted["minKernel"]):
        return False
    return bounding.issuperset(wanted.get("caps") or ())


def _names(rule: Mapping[str, Any]) -> list[str]:
    """Returns the calls of a rule; docker's oldest profiles have one by `name`."""
    names = _strings("names", rule.get("names"))
    return [*names, *_strings("name", [rule["name"]])] if rule.get("name") else names


def _check_condition(field: str, condition: Mapping[str, object]) -> None:
    _known(field, condition, _CONDITIONS)
    _strings("caps", condition.get("caps"))
    _strings("arches", condition.get("arches"))
    if condition.get("minKernel"):
        _version(condition["minKernel"])


def _known(what: str, given: Mapping[str, object], fields: frozenset[str]) -> None:
    if unknown := given.keys() - fields - _IGNORED:
        raise InvalidArgumentError(
            f"seccomp: {what} has {min(unknown, key=str)!r}, which means nothing there"
        )


def _action(field: str, action: object) -> None:
    if not isinstance(action, str) or action not in _ACTIONS:
        said = "is missing" if action is None else f"{action!r} is no action"
        raise InvalidArgumentError(f"seccomp: {field} {said}; there are {', '.join(sorted(_ACTIONS))}")


def _objects(field: str, values: object) -> list[Mapping[str, Any]]:
    found = [] if values is None else values
    if not isinstance(found, list | tuple) or not all(isinstance(one, Mapping) for one in found):
        raise InvalidArgumentError(f"seccomp: {field} is not as the runtime-spec or docker has it")
    return list(found)


def _strings(field: str, values: object) -> list[str]:
    found = [] if values is None else values
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise InvalidArgumentError(f"seccomp: {field} must be a list of strings, not {values!r:.200}")
    return list(found)


def _machine() -> tuple[str, str]:
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise InvalidArgumentError(f"seccomp: docker's name for {machine} is not known; leave arches out")
    return _MACHINES[machine]


def _kernel() -> tuple[int, int]:
    return _version(os.uname().release)


def _version(text: object) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", str(text), re.ASCII)
    if found is None:
        raise InvalidArgumentError(f"seccomp: minKernel {text!r} is not a version such as 4.8")
    return int(found[1]), int(found[2])
