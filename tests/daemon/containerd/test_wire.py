"""The small reader and writer of protobuf, against the big one."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from shimpy.api import bootstrap, task, types, well_known
from shimpy.daemon.containerd import wire
from shimpy.daemon.containerd.errors import MalformedError


def test_it_reads_what_betterproto_writes() -> None:
    params = bootstrap.BootstrapParams(
        instance_id="web", log_level=bootstrap.LogLevel.try_value(-4), socket_dir="/s",
        extensions=[bootstrap.Extension(well_known.Any("a", b"1")), bootstrap.Extension()],
    )  # fmt: skip
    fields = wire.read(bytes(params))

    assert wire.text(fields, 1) == "web"
    assert wire.int32(fields, 3) == -4
    assert wire.text(fields, 9) == "/s"
    assert len(fields[8]) == 2
    assert (wire.text(fields, 2), wire.int32(fields, 7), wire.blob(fields, 6)) == ("", 0, b"")


def test_betterproto_reads_what_it_writes() -> None:
    time = wire.write({1: 1 << 40, 2: 999_999_999})
    response = task.DeleteResponse().parse(wire.write({1: 300, 2: 137, 3: time}))

    assert response == task.DeleteResponse(300, 137, well_known.Timestamp(1 << 40, 999_999_999))


def test_what_is_empty_is_left_out() -> None:
    assert wire.write({1: 0, 2: "", 3: b""}) == b""


def test_fields_of_fixed_size_are_passed_over() -> None:
    assert wire.text(wire.read(b"\x39" + b"x" * 8 + b"\x45" + b"y" * 4 + b"\x0a\x01z"), 1) == "z"


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\x05abc", b"\x08", b"\x08" + b"\x80" * 10 + b"\x01", b"\x0b", b"\x02\x00", b"\x39xx"],
)
def test_what_is_not_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        wire.read(data)


@pytest.mark.parametrize("read", [wire.text, wire.blob])
def test_a_number_is_not_text(read: object) -> None:
    assert callable(read)
    with pytest.raises(MalformedError, match="field 1"):
        read(wire.read(b"\x08\x01"), 1)


def test_text_is_not_a_number() -> None:
    with pytest.raises(MalformedError, match="field 1"):
        wire.int32(wire.read(b"\x0a\x01x"), 1)


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(MalformedError, match="UTF-8"):
        wire.text(wire.read(b"\x0a\x01\xff"), 1)


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        fields = wire.read(data)
    except MalformedError:
        return
    assert all(number > 0 for number in fields)


@pytest.mark.fuzz
@given(st.text(), st.text(), st.dictionaries(st.text(min_size=1), st.text(), max_size=3))
def test_all_that_betterproto_writes_is_read(name: str, version: str, annotations: dict[str, str]) -> None:
    fields = wire.read(bytes(types.RuntimeInfo(name, types.RuntimeVersion(version), annotations=annotations)))

    assert wire.text(fields, 1) == name
    assert wire.text(wire.read(wire.blob(fields, 2)), 1) == version
    assert len(fields.get(5, ())) == len(annotations)
