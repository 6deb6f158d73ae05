"""A container's id, and what its configuration says of a terminal and of its pids."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.spec import MAX_ID, check_id
from shimpy.errors import InvalidArgumentError

# -- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "container_id",
    ["a", "Z", "0", "_", "+", "...", ".a", "..a", "a-", "a--b", "+-", "a.b_c+d-e", "0" * MAX_ID],
)
def test_an_id_that_runc_takes_is_taken(container_id: str) -> None:
    check_id(container_id)


@pytest.mark.parametrize(
    "container_id",
    [
        *("", ".", "..", "-", "--", "-a", "--root=x"),
        *("/", "a/b", "../a", "a/..", " ", "a b", " a", "a ", "a\t", "\n", "a\n", "\na", "a\r", "a\0", "\0"),
        *("ä", "a\u0301", "\u0661", "\uff41", "\u202e", "\udcff", "😀"),
        *("a:b", "a,b", "a=b", "a@b", "a%b", "a*", "a?", "~a", "$a", "`a`", "a;b", "a\\b", '"a"', "'a'"),
        "a" * (MAX_ID + 1),
    ],
)
def test_an_id_that_could_be_an_option_a_path_or_more_is_refused(container_id: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^id: ") as raised:
        check_id(container_id)

    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


@given(st.text(st.sampled_from("aZ09_+.-/ \n\0ä") | st.characters(), max_size=5))
def test_of_any_text_those_are_ids_that_have_only_the_letters_of_one(text: str) -> None:
    expected = set(text) <= {*map(chr, range(128))} and re.fullmatch(r"[\w+.][\w+.-]*", text, re.ASCII)

    taken = True
    try:
        check_id(text)
    except InvalidArgumentError:
        taken = False

    assert taken == bool(expected and text not in (".", ".."))


# -- what a configuration says --------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("said", [None, False, True])
def test_a_terminal_is_asked_for_exactly_if_the_bundle_has_one(said: bool | None, asked: bool) -> None:
    spec = {"process": {} if said is None else {"terminal": said}}

    if bool(said) == asked:
        Bundle("/bundle", spec).check_terminal(terminal=asked)
        return
    with pytest.raises(InvalidArgumentError) as raised:
        Bundle("/bundle", spec).check_terminal(terminal=asked)
    words = {True: "true", False: "false"}
    assert f"terminal: {words[asked]} asked for" in str(raised.value)
    assert f"process.terminal is {words[bool(said)]}" in str(raised.value)


@pytest.mark.parametrize(
    ("linux", "expected"),
    [
        (None, True),
        ({}, True),
        ({"namespaces": None}, True),
        ({"namespaces": []}, True),
        ({"namespaces": [{"type": "mount"}, {}]}, True),
        ({"namespaces": [{"type": "mount"}, {"type": "pid"}]}, False),
        ({"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}, False),
    ],
)
def test_a_container_without_a_pid_namespace_shares_ours(linux: object, expected: bool) -> None:
    assert Bundle("/bundle", {"process": {}, "linux": linux}).shares_pids == expected
