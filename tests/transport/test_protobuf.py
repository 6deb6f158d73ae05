"""Requests are decoded as protobuf decodes them, and what a correct encoder would not write is refused."""

from __future__ import annotations

import dataclasses
import struct
import time
from types import ModuleType
from typing import Any, cast

import betterproto
import pytest
from hypothesis import event, example, given, strategies as st

from shimpy import api
from shimpy.api import task, well_known
from shimpy.errors import InvalidArgumentError
from shimpy.transport.protobuf import MAX_FIELDS, decode, encode

REQUESTS = [
    api.CreateRequest,
    api.StartRequest,
    api.ExecRequest,
    api.DeleteRequest,
    api.PtyRequest,
    api.EventsRequest,
    api.StateRequest,
    api.User,
    api.Rlimit,
]


def varint(number: int) -> bytes:
    """Returns a number as protobuf writes it."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def field(number: int, wire_type: int, value: bytes) -> bytes:
    return varint(number << 3 | wire_type) + value


def text(number: int, value: bytes) -> bytes:
    return field(number, 2, varint(len(value)) + value)


def as_plain(message: Any) -> Any:
    """Returns a message of ours as plain values, to be compared with one of Google's."""
    if not isinstance(message, betterproto.Message):
        return message
    plain: dict[str, Any] = {}
    for name in [field.name for field in dataclasses.fields(cast("Any", message))]:
        value = getattr(message, name)
        if isinstance(value, betterproto.Message) and not betterproto.serialized_on_wire(value):
            plain[name] = None
        else:
            plain[name] = [as_plain(each) for each in value] if isinstance(value, list) else as_plain(value)
    return plain


def as_plain_too(message: Any) -> Any:
    """Returns a message of Google's as plain values."""
    plain: dict[str, Any] = {}
    for described in message.DESCRIPTOR.fields:
        value = getattr(message, described.name)
        if described.message_type is None:
            plain[described.name] = list(value) if described.is_repeated else value
        elif described.is_repeated:
            plain[described.name] = [as_plain_too(each) for each in value]
        else:
            plain[described.name] = as_plain_too(value) if message.HasField(described.name) else None
    return plain


uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
words = st.text(max_size=20)

execs = st.fixed_dictionaries(
    {},
    optional={
        "terminal": st.booleans(),
        "stdin": words,
        "selinux_label": words,
        "user": st.fixed_dictionaries(
            {}, optional={"uid": uint32, "gid": uint32, "additional_gids": st.lists(uint32, max_size=5)}
        ),
        "args": st.lists(words, max_size=5),
        "env": st.lists(words, max_size=5),
        "cwd": words,
        "rlimits": st.lists(
            st.fixed_dictionaries({}, optional={"type": words, "hard": uint64, "soft": uint64}), max_size=3
        ),
        "no_new_privileges": st.booleans(),
    },
)


@pytest.mark.fuzz
@given(values=execs)
def test_whatever_google_writes_is_read_as_it_was_meant(
    foreign: tuple[ModuleType, ModuleType], values: dict[str, Any]
) -> None:
    theirs = foreign[0].ExecRequest(**values)

    assert as_plain(decode(api.ExecRequest, theirs.SerializeToString())) == as_plain_too(theirs)


@pytest.mark.fuzz
@given(values=execs)
def test_whatever_we_write_is_read_by_google_as_it_was_meant(
    foreign: tuple[ModuleType, ModuleType], values: dict[str, Any]
) -> None:
    ours = decode(api.ExecRequest, foreign[0].ExecRequest(**values).SerializeToString())

    assert as_plain_too(foreign[0].ExecRequest.FromString(bytes(ours))) == as_plain(ours)


def fields_of_anything() -> st.SearchStrategy[bytes]:
    """Sequences of fields that are mostly well formed, of all types and numbers, known and not."""
    numbers = st.one_of(st.integers(1, 14), st.integers(1, 2**29 - 1), st.just(0))
    values = st.one_of(
        st.tuples(st.just(0), st.one_of(st.integers(0, 300), uint32, uint64).map(varint)),
        st.tuples(st.just(1), st.binary(min_size=8, max_size=8)),
        st.tuples(st.just(5), st.binary(min_size=4, max_size=4)),
        st.tuples(st.just(2), st.binary(max_size=12).map(lambda data: varint(len(data)) + data)),
        st.tuples(st.integers(0, 7), st.binary(max_size=12)),
    )
    one = st.tuples(numbers, values).map(lambda it: field(it[0], it[1][0], it[1][1]))
    return st.lists(one, max_size=6).map(b"".join)


@pytest.mark.fuzz
@given(request_type=st.sampled_from(REQUESTS), data=st.one_of(st.binary(max_size=40), fields_of_anything()))
@example(request_type=api.PtyRequest, data=b"\x88\x80\x80\x80\x80\x00\x01")
@example(request_type=api.PtyRequest, data=b"\x08" + b"\x80" * 9 + b"\x02")
@example(request_type=api.PtyRequest, data=b"\x08" + b"\x80" * 10 + b"\x00")
@example(request_type=api.CreateRequest, data=b"\x0a\x80\x80\x80\x80\x80\x00")
def test_what_is_taken_is_what_google_takes_and_means_the_same(
    foreign: tuple[ModuleType, ModuleType], request_type: type[betterproto.Message], data: bytes
) -> None:
    try:
        ours = decode(request_type, data)
    except InvalidArgumentError as error:
        event(str(error).partition(": ")[2])
        return

    theirs = getattr(foreign[0], request_type.__name__).FromString(data)
    assert as_plain(ours) == as_plain_too(theirs)


REFUSED = {
    "a number in a string": (api.CreateRequest, field(1, 0, b"\x05"), "CreateRequest.id"),
    "a number of fixed size in a string": (api.CreateRequest, field(1, 5, b"abcd"), "CreateRequest.id"),
    "bytes in a number": (api.PtyRequest, text(2, b"abc"), "PtyRequest.width"),
    "bytes in a bool": (api.CreateRequest, text(4, b"\x01"), "CreateRequest.no_pivot"),
    "a fixed 64 in a number": (api.PtyRequest, field(1, 1, b"12345678"), "PtyRequest.pid"),
    "a number in a message": (api.ExecRequest, field(6, 0, b"\x01"), "ExecRequest.user"),
    "2^32 in a uint32": (api.PtyRequest, field(2, 0, varint(2**32)), "PtyRequest.width"),
    "2^40 in a uint32": (api.PtyRequest, field(2, 0, varint(2**40)), "PtyRequest.width"),
    "-1 in a uint32": (api.PtyRequest, field(1, 0, varint(2**64 - 1)), "PtyRequest.pid"),
    "2^32 in a packed list": (api.User, text(3, varint(2**32)), "User.additional_gids"),
    "2^64 in a uint64": (api.Rlimit, field(2, 0, b"\xff" * 9 + b"\x02"), "Rlimit.hard"),
    "2^64 in an unknown field": (api.PtyRequest, field(9, 0, b"\xff" * 9 + b"\x02"), "PtyRequest"),
    "a number of eleven bytes": (api.PtyRequest, field(1, 0, b"\x80" * 10 + b"\x00"), "PtyRequest.pid"),
    "no UTF-8": (api.CreateRequest, text(2, b"/\xff"), "CreateRequest.bundle"),
    "a surrogate": (api.CreateRequest, text(2, b"\xed\xa0\x80"), "CreateRequest.bundle"),
    "a string that is cut off": (api.CreateRequest, b"\x0a\x05abc", "CreateRequest.id"),
    "a huge length": (api.CreateRequest, b"\x0a\xff\xff\xff\xff\x0f", "CreateRequest.id"),
    "a number that is cut off": (api.PtyRequest, b"\x08\x80", "PtyRequest.pid"),
    "a packed list that is cut off": (api.User, text(3, b"\x01\x80"), "User.additional_gids"),
    "a tag that is cut off": (api.PtyRequest, b"\x80", "PtyRequest"),
    "a tag without a value": (api.PtyRequest, b"\x08", "PtyRequest.pid"),
    "an unknown fixed 64 that is cut off": (api.PtyRequest, field(9, 1, b"1234567"), "PtyRequest"),
    "an unknown fixed 32 that is cut off": (api.PtyRequest, field(9, 5, b"123"), "PtyRequest"),
    "field number 0": (api.PtyRequest, field(0, 0, b"\x01"), "PtyRequest"),
    "field number 2^29": (api.PtyRequest, field(2**29, 0, b"\x01"), "PtyRequest"),
    "the start of a group": (api.PtyRequest, field(1, 3, b""), "PtyRequest.pid"),
    "the end of a group": (api.PtyRequest, field(9, 4, b""), "PtyRequest"),
    "wire type 6": (api.PtyRequest, field(1, 6, b""), "PtyRequest.pid"),
    "wire type 7": (api.PtyRequest, field(9, 7, b""), "PtyRequest"),
    "a fault in a nested message": (api.ExecRequest, text(6, field(1, 2, b"\x00")), "User.uid"),
    "a nested message that is too long": (api.ExecRequest, b"\x32\x09\x08\x01", "ExecRequest.user"),
    "a nested field beyond its message": (api.ExecRequest, text(11, b"\x0a\x05ab") + b"cdef", "Rlimit.type"),
}


@pytest.mark.parametrize(("request_type", "data", "named"), REFUSED.values(), ids=REFUSED)
def test_it_refuses(request_type: type[betterproto.Message], data: bytes, named: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        decode(request_type, data)

    assert str(error.value).startswith(f"{named}: ")


def test_unknown_fields_of_a_newer_client_are_skipped() -> None:
    newer = b"".join(
        [
            field(100, 0, varint(2**64 - 1)),
            field(101, 1, b"12345678"),
            text(102, b"\xff" * 1000),
            field(103, 5, b"1234"),
            field(2**29 - 1, 0, b"\x00"),
        ]
    )

    assert decode(api.PtyRequest, newer + field(1, 0, b"\x07") + newer) == api.PtyRequest(pid=7)


def test_lists_of_numbers_come_packed_and_not_and_both() -> None:
    data = text(3, b"\x01\x02") + field(3, 0, b"\x03") + text(3, b"") + text(3, b"\x04")

    assert decode(api.User, data).additional_gids == [1, 2, 3, 4]


def test_of_several_values_the_last_one_wins() -> None:
    assert decode(api.PtyRequest, field(1, 0, b"\x01") + field(1, 0, b"\x02")).pid == 2


def test_several_occurrences_of_a_message_are_merged() -> None:
    parts = [
        api.ExecRequest(user=api.User(uid=1, gid=2, additional_gids=[3])),
        api.ExecRequest(user=api.User(uid=4, additional_gids=[5])),
    ]

    assert decode(api.ExecRequest, b"".join(map(bytes, parts))).user == api.User(
        uid=4, gid=2, additional_gids=[3, 5]
    )


def test_a_bool_is_any_number_but_zero() -> None:
    assert decode(api.CreateRequest, field(5, 0, varint(2**63))).terminal is True
    assert decode(api.CreateRequest, field(5, 0, b"\x80\x00")).terminal is False


def test_numbers_may_be_padded() -> None:
    assert decode(api.PtyRequest, field(1, 0, b"\x87\x80\x80\x00")).pid == 7


def test_an_empty_message_is_not_one_that_was_left_out() -> None:
    sent = decode(api.ExecRequest, text(6, b""))
    left_out = decode(api.ExecRequest, b"")

    assert betterproto.serialized_on_wire(sent.user)
    assert not betterproto.serialized_on_wire(left_out.user)


@pytest.mark.parametrize(
    ("request_type", "data"),
    [
        (api.StateRequest, field(15, 0, b"\x00") * 80_000),
        (api.ExecRequest, text(7, b"") * (MAX_FIELDS + 1)),
        (api.ExecRequest, text(6, text(3, b"\x01" * (MAX_FIELDS + 1)))),
        (api.ExecRequest, text(11, b"") * (MAX_FIELDS + 1)),
        (api.User, field(3, 0, b"\x01") * (MAX_FIELDS + 1)),
    ],
    ids=["unknown", "strings", "packed", "messages", "numbers"],
)
def test_a_message_of_very_many_fields_is_refused_soon(
    request_type: type[betterproto.Message], data: bytes
) -> None:
    start = time.thread_time()
    with pytest.raises(InvalidArgumentError, match=f"more than {MAX_FIELDS} fields"):
        decode(request_type, data)
    took = time.thread_time() - start

    assert took < 0.25  # betterproto itself takes 1.2 s for the first


def test_a_long_command_line_is_taken() -> None:
    request = api.ExecRequest(args=["x" * 100] * 10_000, env=["A=b"] * 5_000, cwd="/")

    assert decode(api.ExecRequest, bytes(request)) == request


class Kind(betterproto.Enum):
    ZERO = 0
    ONE = 1


@dataclasses.dataclass(eq=False, repr=False)
class Other(betterproto.Message):
    """What requests of other services have and those of the shim do not."""

    signed: int = betterproto.int32_field(1)
    kind: Kind = betterproto.enum_field(2)
    raw: bytes = betterproto.bytes_field(3)
    either: str = betterproto.string_field(4, group="choice")
    or_else: int = betterproto.int32_field(5, group="choice")


def test_signed_numbers_enums_and_bytes() -> None:
    data = field(1, 0, varint(2**64 - 5)) + field(2, 0, b"\x01") + text(3, b"\xff\x00")

    message = decode(Other, data)

    assert (message.signed, message.kind, message.raw) == (-5, Kind.ONE, b"\xff\x00")


def test_an_enum_of_a_newer_client_keeps_its_number() -> None:
    assert int(decode(Other, field(2, 0, b"\x09")).kind) == 9


@pytest.mark.parametrize("number", [2**31, 2**63, 2**64 - 2**31 - 1])
def test_an_int32_has_its_range(number: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^Other\.signed: .* does not fit in an int32"):
        decode(Other, field(1, 0, varint(number)))


def test_of_a_oneof_the_last_field_holds() -> None:
    message = decode(Other, text(4, b"x") + field(5, 0, b"\x00"))

    assert betterproto.which_one_of(message, "choice") == ("or_else", 0)


def test_a_type_of_field_that_is_not_known_is_not_guessed_at() -> None:
    @dataclasses.dataclass(eq=False, repr=False)
    class Measured(betterproto.Message):
        weight: float = betterproto.double_field(1)

    with pytest.raises(NotImplementedError, match=r"Measured\.weight"):
        decode(Measured, field(1, 1, struct.pack("<d", 1.0)))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], {}),
        ([text(1, b"a") + text(2, b"b"), text(2, b"d") + text(1, b"c")], {"a": "b", "c": "d"}),
        ([text(1, b"a") + text(2, b"b"), text(1, b"a") + text(2, b"c")], {"a": "c"}),
        ([text(1, b"a"), text(2, b"b")], {"a": "", "": "b"}),
        ([b""], {"": ""}),
    ],
    ids=["empty", "in any order", "twice", "halves", "nothing"],
)
def test_a_map_is_read_from_its_entries(entries: list[bytes], expected: dict[str, str]) -> None:
    data = b"".join(text(3, entry) for entry in entries)

    assert decode(task.UpdateTaskRequest, data).annotations == expected


@pytest.mark.parametrize("entry", [b"\x08\x01", b"\x0a\x01\xff", b"\x0a\x05a"])
def test_a_malformed_entry_of_a_map_is_refused(entry: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        decode(task.UpdateTaskRequest, text(3, entry))


@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63), -62135596800])
def test_an_int64_has_its_range(number: int) -> None:
    assert decode(well_known.Timestamp, field(1, 0, varint(number % 2**64))).seconds == number


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
anys = st.builds(well_known.Any, type_url=words, value=st.binary(max_size=8))
maps = st.dictionaries(words, words, max_size=3)
replies = st.one_of(
    st.builds(
        task.StateResponse,
        id=words,
        pid=st.integers(0, 2**32 - 1),
        status=st.sampled_from([0, 1, 5, 9]),
        terminal=st.booleans(),
        exited_at=st.builds(
            well_known.Timestamp,
            seconds=st.integers(-(2**63), 2**63 - 1),
            nanos=st.integers(-(2**31), 2**31 - 1),
        ),
    ),
    st.builds(task.StatsResponse, stats=anys),
    st.builds(task.UpdateTaskRequest, id=words, resources=anys, annotations=maps),
    st.builds(task.UpdateTaskRequest, annotations=maps),
    st.builds(task.WaitResponse),
    st.builds(task.WaitResponse, exited_at=st.builds(well_known.Timestamp)),
    st.builds(
        api.User,
        uid=st.integers(0, 9),
        additional_gids=st.lists(st.integers(0, 2**32 - 1), max_size=4),
    ),
    st.builds(
        api.ExecRequest, args=st.lists(words, max_size=4), rlimits=st.lists(st.builds(api.Rlimit), max_size=2)
    ),
    st.builds(Other, signed=st.integers(-9, 9), either=words),
    st.builds(Other, or_else=st.integers(0, 1)),
)


@given(message=replies)
@example(message=task.UpdateTaskRequest(annotations={"": ""}))
@example(message=task.WaitResponse(exited_at=decode(well_known.Timestamp, b"")))
def test_what_is_encoded_is_read_as_it_was(message: betterproto.Message) -> None:
    data = encode(message)

    assert decode(type(message), data) == message
    # But for an entry of a map that is all empty, which betterproto leaves out.
    if not isinstance(message, task.UpdateTaskRequest) or message.annotations.get("") != "":
        assert data == bytes(message)


def test_a_field_that_was_read_before_it_was_set_is_not_sent() -> None:
    message = task.StateResponse(id="web")
    assert message.exited_at.seconds == 0

    assert encode(message) == b"\n\x03web"
