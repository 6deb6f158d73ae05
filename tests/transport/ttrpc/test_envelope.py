"""Request and Response are what Google's protobuf makes of their proto, and what is malformed is refused."""

from __future__ import annotations

import operator
import time
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import example, given, strategies as st

from shimpy.errors import InvalidArgumentError
from shimpy.transport.ttrpc.envelope import (
    MAX_FIELDS,
    MAX_STATUS_MESSAGE,
    Request,
    Response,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

_FIELD = descriptor_pb2.FieldDescriptorProto


def _messages() -> dict[str, Any]:
    """Returns Google's classes for the messages that the protocol consists of."""
    file = descriptor_pb2.FileDescriptorProto(name="request.proto", package="ttrpc", syntax="proto3")
    for name, fields in {
        "KeyValue": [("key", _FIELD.TYPE_STRING), ("value", _FIELD.TYPE_STRING)],
        "Request": [
            ("service", _FIELD.TYPE_STRING),
            ("method", _FIELD.TYPE_STRING),
            ("payload", _FIELD.TYPE_BYTES),
            ("timeout_nano", _FIELD.TYPE_INT64),
            ("metadata", "KeyValue"),
        ],
        "Status": [("code", _FIELD.TYPE_INT32), ("message", _FIELD.TYPE_STRING)],
        "Response": [("status", "Status"), ("payload", _FIELD.TYPE_BYTES)],
    }.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields, 1):
            field = message.field.add(name=field_name, number=number, label=_FIELD.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".ttrpc.{kind}"
            else:
                field.type = kind
            if field_name == "metadata":
                field.label = _FIELD.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {**message_factory.GetMessageClassesForFiles(["request.proto"], pool)}


_GOOGLE = {name.removeprefix("ttrpc."): cls for name, cls in _messages().items()}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
requests = st.builds(
    Request,
    text,
    text,
    st.binary(max_size=200),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.tuples(text, text), max_size=4).map(tuple),
)


def google_request(request: Request) -> Any:
    return _GOOGLE["Request"](
        service=request.service,
        method=request.method,
        payload=request.payload,
        timeout_nano=request.timeout,
        metadata=[_GOOGLE["KeyValue"](key=key, value=value) for key, value in request.metadata],
    )


@given(request=requests)
def test_a_request_is_written_as_google_writes_it(request: Request) -> None:
    assert encode_request(request) == google_request(request).SerializeToString(deterministic=True)


@given(request=requests)
def test_a_request_of_google_is_read(request: Request) -> None:
    assert decode_request(google_request(request).SerializeToString()) == request


@given(payload=st.binary(max_size=300))
def test_an_answer_that_is_well(payload: bytes) -> None:
    encoded = encode_response(Response(payload))

    assert encoded == _GOOGLE["Response"](payload=payload).SerializeToString()
    assert decode_response(encoded) == Response(payload)


@given(code=st.integers(1, 16), message=text)
def test_an_answer_with_a_status(code: int, message: str) -> None:
    encoded = encode_response(Response(code=code, message=message))

    assert encoded == _GOOGLE["Response"](status={"code": code, "message": message}).SerializeToString()
    assert decode_response(encoded) == Response(b"", code, message)


# To draw thousands of characters one by one takes long; where it is cut they may as well come again.
@given(message=st.builds(operator.mul, st.text(max_size=20), st.integers(0, 1000)))
@example(message="x" * MAX_STATUS_MESSAGE)
@example(message="x" * (MAX_STATUS_MESSAGE + 1))
@example(message="\udcff/etc")
def test_any_message_of_a_status_is_short_and_can_be_read(message: str) -> None:
    decoded = decode_response(encode_response(Response(code=2, message=message))).message

    assert len(decoded.encode()) <= MAX_STATUS_MESSAGE
    if decoded.endswith("..."):
        assert message.encode("utf-8", "backslashreplace").startswith(decoded[:-3].encode())


def test_unknown_fields_are_skipped() -> None:
    unknown = b"\x78\x05\x7a\x02ab\x79" + bytes(8) + b"\x7d" + bytes(4)
    request = Request("a", "b", b"c")

    assert decode_request(unknown + encode_request(request) + unknown) == request


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x01",  # service as a number
        b"\x0a\x05ab",  # longer than what is there
        b"\x0a\x01\xff",  # not UTF-8
        b"\x22\x01a",  # timeout_nano as bytes
        b"\x28\x01",  # metadata as a number
        b"\x2a\x01\x08",  # half a pair
        b"\x0b\x0c",  # a group
        b"\x02\x00",  # field 0
        b"\x80" * 11,  # a number that is too long
        b"\x20" + b"\xff" * 9 + b"\x7f",  # 70 bits
        b"\x0a",  # a field that ends after its tag
        b"\x79\x00",  # half of a fixed64
    ],
    ids=lambda data: data.hex(),
)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^(Request|KeyValue)[.:]"):
        decode_request(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x2a\x00" * (MAX_FIELDS + 1),
        b"\x78\x00" * (MAX_FIELDS + 1),
        b"\x2a\xfe\xff\x7f" + b"\x78\x00" * 0xFFFFF,
    ],
    ids=["metadata", "unknown fields", "unknown fields of a pair"],
)
def test_no_request_takes_long_to_read(data: bytes) -> None:
    begin = time.thread_time()
    with pytest.raises(InvalidArgumentError, match="too many fields"):
        decode_request(data)

    assert time.thread_time() - begin < 0.25


@pytest.mark.fuzz
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_as_google_reads_them_or_refused(data: bytes) -> None:
    try:
        request = decode_request(data)
    except InvalidArgumentError as error:
        assert str(error).isprintable()
        return
    try:
        google = _GOOGLE["Request"].FromString(data)
    except DecodeError:
        pytest.fail("protobuf does not take it")
    assert google_request(request) == _without_unknown(google)


def _without_unknown(message: Any) -> Any:
    message.DiscardUnknownFields()
    return message
