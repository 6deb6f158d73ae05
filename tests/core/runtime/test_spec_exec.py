"""What an exec asks for: what is refused, and what becomes of it and the container's own process."""

from __future__ import annotations

import copy
import json
import resource
import subprocess
from typing import Any

import pytest
from hypothesis import given, strategies as st

from shimpy.core.model import Rlimit, User
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.spec import MAX_UID, ExecSpec, check_exec
from shimpy.errors import InvalidArgumentError
from tests.support.machine import lacking


def process_for(spec: dict[str, Any], asked: ExecSpec) -> dict[str, Any]:
    return Bundle("/bundle", spec).process_for(asked)


# -- what no container could run -----------------------------------------------------------------

LEAST = ExecSpec(args=("true",))

FULL = ExecSpec(
    args=("sh", "-c", "", "ä\n"),
    env=("A=", "B==", "C=a b\n", "with space=1", "ä=ä"),
    cwd="/a b/../c",
    user=User(uid=MAX_UID, gid=MAX_UID, additional_gids=(0, MAX_UID)),
    capabilities=("CAP_KILL", "CAP_CHOWN", "CAP_KILL"),
    rlimits=(Rlimit("RLIMIT_NOFILE", hard=9, soft=9), Rlimit("RLIMIT_CORE", hard=2**64 - 1, soft=0)),
    no_new_privileges=True,
    apparmor_profile="a profile",
    selinux_label="a:b:c:d",
    terminal=True,
)


@pytest.mark.parametrize("asked", [LEAST, FULL], ids=["least", "full"])
def test_what_can_be_run_is_taken(asked: ExecSpec) -> None:
    check_exec(asked)


@pytest.mark.skipif(bool(lacking()), reason=f"needs {lacking()}")
def test_every_capability_that_runc_knows_is_taken() -> None:
    known = json.loads(subprocess.run(["runc", "features"], check=True, capture_output=True).stdout)

    check_exec(LEAST._replace(capabilities=tuple(known["linux"]["capabilities"])))


# Python knows one of them by two names, and one not at all.
@pytest.mark.parametrize(
    "name",
    sorted({name for name in dir(resource) if "RLIMIT_" in name} - {"RLIMIT_OFILE"} | {"RLIMIT_LOCKS"}),
)
def test_every_limit_of_the_kernel_is_taken(name: str) -> None:
    check_exec(LEAST._replace(rlimits=(Rlimit(name, hard=2, soft=1),)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("args", value) for value in [(), ("",), ("", "a"), ("\0",), ("a\0b",), ("true", "\0")]),
        *(("env", (value,)) for value in ["", "A", "=", "=a", "\0", "A=\0", "A\0=a", "x" * 10_000]),
        ("env", ("A=a", "B")),
        *(("cwd", value) for value in ["a", ".", "..", "./a", " /", "~", "\0", "/a\0"]),
        ("cwd", "x" * 10_000),
        *(("capabilities", (value,)) for value in ["", "KILL", "cap_kill", "CAP_", "CAP_KILL ", "ALL"]),
        ("capabilities", ("CAP_KILL", "CAP_NOT_YET" * 1000)),
        ("user", User(uid=MAX_UID + 1, gid=0)),
        ("user", User(uid=0, gid=2**32 - 1)),
        ("user", User(uid=0, gid=0, additional_gids=(0, MAX_UID + 1))),
        *(("rlimits", (Rlimit(value, 1, 1),)) for value in ["", "NOFILE", "rlimit_nofile", "RLIMIT_", "\0"]),
        ("rlimits", (Rlimit("RLIMIT_" * 1000, hard=1, soft=1),)),
        ("rlimits", (Rlimit("RLIMIT_CORE", hard=1, soft=2),)),
        ("rlimits", (Rlimit("RLIMIT_CORE", hard=1, soft=1), Rlimit("RLIMIT_CORE", hard=2, soft=2))),
        ("apparmor_profile", "a\0"),
        ("selinux_label", "\0"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_cannot_be_run_is_refused_with_the_name_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{field}: ") as raised:
        check_exec(FULL._replace(**{field: value}))

    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


# -- what the runtime is given -------------------------------------------------------------------

anything = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3))
names = st.lists(st.sampled_from(["CAP_KILL", "CAP_CHOWN", "CAP_BPF"]), max_size=4)

# What a container's own process may be.
processes = st.fixed_dictionaries(
    {},
    optional={
        "args": st.lists(st.text(max_size=3)),
        "env": st.lists(st.text(max_size=3)),
        "cwd": st.text(max_size=3),
        "terminal": st.booleans(),
        "consoleSize": st.just({"height": 5, "width": 5}),
        "commandLine": st.text(max_size=3),
        "user": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "uid": st.integers(0, 9),
                "gid": st.integers(0, 9),
                "additionalGids": st.lists(st.integers(0, 9), max_size=2),
                "umask": st.none() | st.integers(0, 0o777),
                "username": st.text(max_size=3),
            },
        ),
        "capabilities": st.none()
        | st.dictionaries(
            st.sampled_from(["bounding", "effective", "permitted", "inheritable", "ambient"]), names
        ),
        "rlimits": st.lists(st.just({"type": "RLIMIT_CORE", "hard": 1, "soft": 0}), max_size=1),
        "noNewPrivileges": st.none() | st.booleans(),
        "apparmorProfile": st.text(max_size=3),
        "selinuxLabel": st.text(max_size=3),
        "oomScoreAdj": st.integers(-1000, 1000),
        "x-new": anything,
    },
)

requests = st.builds(
    ExecSpec,
    args=st.lists(st.text(max_size=3), min_size=1, max_size=3).map(tuple),
    env=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    cwd=st.sampled_from(["", "/", "/a"]),
    user=st.none()
    | st.builds(
        User, st.integers(0, 9), st.integers(0, 9), st.lists(st.integers(0, 9), max_size=2).map(tuple)
    ),
    capabilities=names.map(tuple),
    rlimits=st.lists(st.builds(Rlimit, st.just("RLIMIT_CPU"), st.just(2), st.integers(0, 2)), max_size=1).map(
        tuple
    ),
    no_new_privileges=st.booleans(),
    apparmor_profile=st.sampled_from(["", "a"]),
    selinux_label=st.sampled_from(["", "b"]),
    terminal=st.booleans(),
)

# What the runtime-spec calls each field.
KEYS = {
    "args": "args",
    "env": "env",
    "cwd": "cwd",
    "user": "user",
    "capabilities": "capabilities",
    "rlimits": "rlimits",
    "no_new_privileges": "noNewPrivileges",
    "apparmor_profile": "apparmorProfile",
    "selinux_label": "selinuxLabel",
    "terminal": "terminal",
}


@given(process=processes, asked=requests)
def test_what_is_left_unset_is_the_containers_own(process: dict[str, Any], asked: ExecSpec) -> None:
    """So is what a request has no field for, and what nobody here knows of."""
    is_set = {
        KEYS[name] for name, value in asked._asdict().items() if value != ExecSpec._field_defaults.get(name)
    }
    # It has a program of its own, and a terminal of its own or none.
    never = {"args", "terminal", "consoleSize", "commandLine"}

    found = process_for({"process": process}, asked)

    kept = {key: value for key, value in process.items() if key not in is_set | never}
    assert {key: value for key, value in found.items() if key not in is_set | never} == kept


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("args", ["sh", "-c", "", "ä\n"]),
        ("env", ["A=", "B==", "C=a b\n", "with space=1", "ä=ä"]),
        ("cwd", "/a b/../c"),
        ("user", {"uid": MAX_UID, "gid": MAX_UID, "additionalGids": [0, MAX_UID]}),
        (
            "rlimits",
            [
                {"type": "RLIMIT_NOFILE", "hard": 9, "soft": 9},
                {"type": "RLIMIT_CORE", "hard": 2**64 - 1, "soft": 0},
            ],
        ),
        ("no_new_privileges", True),
        ("apparmor_profile", "a profile"),
        ("selinux_label", "a:b:c:d"),
        ("terminal", True),
    ],
)
@pytest.mark.parametrize("has_its_own", [False, True])
def test_what_is_set_takes_the_place_of_the_containers_own(
    has_its_own: bool, field: str, expected: object
) -> None:
    """All of it: no variable, group or limit of the container's is added."""
    own = {
        "args": ["init"],
        "env": ["PATH=/bin"],
        "cwd": "/init",
        "user": {"uid": 1, "gid": 2, "additionalGids": [3, 4], "username": "x"},
        "rlimits": [{"type": "RLIMIT_CPU", "hard": 1, "soft": 1}],
        "noNewPrivileges": False,
        "apparmorProfile": "init's",
        "selinuxLabel": "init's",
        "terminal": False,
    }

    found = process_for({"process": own if has_its_own else {}}, FULL)

    assert found[KEYS[field]] == expected


@given(process=processes, asked=requests)
def test_the_containers_configuration_stays_as_it_is(process: dict[str, Any], asked: ExecSpec) -> None:
    before = copy.deepcopy(process)

    process_for({"process": process}, asked)

    assert process == before


@given(process=processes, asked=requests)
def test_it_can_be_written_as_JSON(process: dict[str, Any], asked: ExecSpec) -> None:  # noqa: N802
    found = process_for({"process": process}, asked)

    assert json.loads(json.dumps(found)) == found


@given(process=processes, capabilities=names.filter(bool))
def test_capabilities_that_are_asked_for_are_never_handed_on(
    process: dict[str, Any], capabilities: list[str]
) -> None:
    """Bounding, effective and permitted; nothing inheritable or ambient, whatever the container has."""
    asked = LEAST._replace(capabilities=tuple(capabilities))
    expected = sorted({*capabilities})

    found = process_for({"process": process}, asked)["capabilities"]

    assert found == dict.fromkeys(["bounding", "effective", "permitted"], expected)


@pytest.mark.parametrize("containers", [None, False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_there_are_no_new_privileges_if_either_says_so(containers: bool | None, asked: bool) -> None:
    found = process_for({"process": {"noNewPrivileges": containers}}, LEAST._replace(no_new_privileges=asked))

    assert bool(found["noNewPrivileges"]) == bool(containers or asked)


@pytest.mark.parametrize("own", [None, {}, {"uid": 1000, "gid": 1000, "additionalGids": [7]}], ids=str)
def test_a_user_of_zeros_is_a_user(own: object) -> None:
    found = process_for({"process": {"user": own}}, LEAST._replace(user=User(uid=0, gid=0)))

    assert found["user"] == {"uid": 0, "gid": 0, "additionalGids": []}


@pytest.mark.parametrize("umask", [0, 0o027, 0o777])
@pytest.mark.parametrize("user", [None, User(uid=5, gid=6)])
def test_the_containers_umask_is_for_every_user(user: User | None, umask: int) -> None:
    spec = {"process": {"user": {"uid": 1, "gid": 2, "umask": umask}}}

    assert process_for(spec, LEAST._replace(user=user))["user"]["umask"] == umask


@pytest.mark.parametrize("asked", [False, True])
def test_of_inits_terminal_and_program_it_has_nothing(asked: bool) -> None:
    process = {"terminal": not asked, "consoleSize": {"height": 5, "width": 5}, "commandLine": "init"}

    found = process_for({"process": process}, LEAST._replace(terminal=asked))

    assert found == {"args": ["true"], "terminal": asked}
