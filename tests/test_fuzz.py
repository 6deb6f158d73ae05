"""Generated input for what reads bytes that others wrote: a runtime's log, requests, a config.json.

`make fuzz` gives these a long run. Time is measured in CPU seconds of this thread, which a busy machine does
not stretch.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import betterproto
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from shimpy import api
from shimpy.core.cgroup import leftover_paths
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.files import MAX_LOG
from shimpy.core.runtime.log_errors import MAX_LOG_LINES, MAX_MESSAGE, last_error
from shimpy.core.runtime.spec import ExecSpec
from shimpy.errors import InvalidArgumentError, ShimError
from shimpy.testing import error_line
from shimpy.transport.protobuf import decode
from tests.support.rounds import rounds

pytestmark = pytest.mark.fuzz

# CPU seconds for which reading one of these may hold up the event loop, on a slow machine.
QUICK = 0.25

# Whatever JSON can say.
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)

words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20).filter(str.isprintable)
messages = st.lists(words, min_size=1, max_size=5).map(" ".join)


def taken(function: Callable[[], object]) -> float:
    """Returns the CPU seconds that a function takes; the collector would look at all of pytest meanwhile."""
    gc.disable()
    try:
        begin = time.thread_time()
        function()
        return time.thread_time() - begin
    finally:
        gc.enable()


def entry(level: object, message: object) -> bytes:
    return json.dumps({"level": level, "msg": message}).encode()


# Lines that tell of no error, though some look like it.
no_errors = st.one_of(
    st.binary(max_size=40).map(lambda line: line.translate(None, b"\r\n")),
    st.builds(entry, st.sampled_from(["info", "warning", "", None, 7, ["error"], {}]), st.text(max_size=10)),
    st.builds(entry, st.just("error"), anything.filter(lambda value: not isinstance(value, str))),
    st.builds(entry, st.just("error"), st.sampled_from(["", " ", "\n\t"])),
    anything.map(lambda value: json.dumps(value).encode()),
    st.builds(lambda text, cut: error_line(text)[: -1 - cut], messages, st.integers(1, 20)),
    st.sampled_from([b"", b"{}", b"[" * 5000, b'{"a":' * 5000, b'{"level":"error"}', b"9" * 5000, b"NaN"]),
)


@given(
    log=st.binary(max_size=200) | st.lists(no_errors | messages.map(error_line), max_size=6).map(b"\n".join)
)
def test_any_log_gives_a_short_printable_message_or_none(log: bytes) -> None:
    message = last_error(log)

    assert message.isprintable()
    assert len(message) <= MAX_MESSAGE


@given(
    before=st.lists(no_errors | messages.map(error_line), max_size=4),
    message=messages,
    after=st.lists(no_errors, max_size=4),
)
def test_the_last_error_is_found_among_whatever_else_is_there(
    before: list[bytes], message: str, after: list[bytes]
) -> None:
    log = b"\n".join([*before, error_line(message).strip(), *after])

    assert last_error(log) == message


@given(message=st.text(max_size=3000), cut=st.integers(0, 400))
@example(message="\ud800", cut=0)
@example(message="\x1b[2J\u202e\r\n\0", cut=0)
def test_any_message_and_any_part_of_its_line(message: str, cut: int) -> None:
    line = error_line(message)
    found = last_error(line[: max(0, len(line) - cut)])

    assert found.isprintable()
    assert len(found) <= MAX_MESSAGE
    assert bool(found) == (cut <= 1 and bool(message.strip()))


@given(unit=st.binary(min_size=1, max_size=12) | no_errors.filter(bool), newline=st.booleans())
@example(unit=b"\n", newline=False)
@example(unit=b"{", newline=True)
@example(unit=b"[", newline=False)
@example(unit=b'{"a":[', newline=False)
@example(unit=b"9", newline=False)
@example(unit=b'"\\u0000', newline=False)
@settings(max_examples=rounds(30, 2000))
def test_a_log_that_is_full_of_anything_is_read_quickly(unit: bytes, newline: bool) -> None:
    unit += b"\n" if newline else b""
    log = (unit * (MAX_LOG // len(unit) + 1))[:MAX_LOG]

    assert taken(lambda: last_error(log)) < QUICK


def test_only_the_last_lines_count() -> None:
    error = error_line("the pool is on fire")

    assert last_error(error + b"\n" * (MAX_LOG_LINES - 1)) == "the pool is on fire"
    assert last_error(error + b"\n" * MAX_LOG_LINES) == ""


# Requests. What is well formed is in test_wire; here it is damaged.

REQUESTS = [api.CreateRequest, api.ExecRequest, api.DeleteRequest, api.PtyRequest]

numbers = st.integers(0, 2**32 - 1)
short = st.text(max_size=12)
requests = st.one_of(
    st.builds(api.CreateRequest, id=short, bundle=short, runtime=short, terminal=st.booleans(), stdin=short),
    st.builds(api.PtyRequest, pid=numbers, width=numbers, height=numbers),
    st.builds(
        api.ExecRequest,
        args=st.lists(short, max_size=3),
        env=st.lists(short, max_size=3),
        user=st.builds(api.User, uid=numbers, additional_gids=st.lists(numbers, max_size=3)),
        rlimits=st.lists(st.builds(api.Rlimit, type=short, hard=numbers), max_size=3),
    ),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An encoded request after a few accidents."""
    data = bytearray(bytes(draw(requests)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 4)))
        data[at:end] = draw(st.binary(max_size=4))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@given(request_type=st.sampled_from(REQUESTS), data=damaged())
def test_a_damaged_request_is_refused_by_name_or_means_what_it_says(
    request_type: type[betterproto.Message], data: bytes
) -> None:
    try:
        request = decode(request_type, data)
    except InvalidArgumentError as error:
        assert str(error).isprintable()
        assert ": " in str(error)
    else:
        assert decode(request_type, bytes(request)) == request


@given(
    request_type=st.sampled_from(REQUESTS),
    unit=st.binary(min_size=1, max_size=8) | damaged().filter(bool),
)
@example(request_type=api.ExecRequest, unit=b"\x3a\x00")
@example(request_type=api.ExecRequest, unit=b"\x32\x02\x1a\x00")
@example(request_type=api.ExecRequest, unit=b"\x5a\x00")
@example(request_type=api.ExecRequest, unit=b"\x78\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")
@settings(max_examples=rounds(30, 2000))
def test_a_request_that_is_full_of_anything_is_read_quickly(
    request_type: type[betterproto.Message], unit: bytes
) -> None:
    data = unit * (4 * 1024 * 1024 // len(unit))

    def read() -> None:
        with contextlib.suppress(InvalidArgumentError):
            decode(request_type, data)

    assert taken(read) < QUICK


# A bundle's config.json. Only what shimpy itself reads of it; the rest is the runtime's to judge.

configurations = anything | st.fixed_dictionaries(
    {},
    optional={
        "process": anything
        | st.fixed_dictionaries({}, optional={"terminal": anything, "user": anything, "args": anything}),
        "linux": anything
        | st.fixed_dictionaries(
            {},
            optional={
                "cgroupsPath": anything,
                "namespaces": anything
                | st.lists(anything | st.fixed_dictionaries({"type": anything}), max_size=2),
            },
        ),
    },
)


@given(configuration=configurations)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(configuration={"process": {}, "linux": "no object"})
@example(configuration={"process": {}, "linux": {"namespaces": "no list"}})
@example(configuration={"process": {}, "linux": {"namespaces": ["no object"]}})
@example(configuration={"process": {}, "linux": {"cgroupsPath": 7}})
@example(configuration={"process": {}, "linux": {"cgroupsPath": "\ud800"}})
@example(configuration={"process": {}, "linux": {"cgroupsPath": "/a\0b"}})
@example(configuration={"process": {}, "linux": {"cgroupsPath": "x/" * 4096}})
@example(configuration={"process": {"user": "root"}})
def test_any_configuration_is_read_or_refused(tmp_path: Path, configuration: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    try:
        bundle = Bundle.read(str(tmp_path))
        bundle.check_terminal(terminal=False)
    except ShimError as error:
        assert str(error).startswith(("bundle: ", "terminal: "))
        return

    _ = bundle.shares_pids
    for path in leftover_paths(bundle.spec, "id"):
        with contextlib.suppress(OSError):
            os.stat(path)
    bundle.process_for(ExecSpec(args=("true",)))


@given(
    text=st.binary(max_size=60) | st.sampled_from([b"[" * 100_000, b"9" * 5000, b"\xef\xbb\xbf{}", b"NaN"])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_for_a_configuration_are_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)

    with pytest.raises(ShimError, match=r"^bundle: "):
        Bundle.read(str(tmp_path))
