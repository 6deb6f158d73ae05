"""ttrpc's Request and Response, the messages that carry the others.

They are in every call, and so few that they are written out here: made and encoded by betterproto they would
cost more than all the rest of a call. Numbers and types of their fields are those of request.proto of
github.com/containerd/ttrpc; a Response has a google.rpc.Status in it unless the call went well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from shimpy.errors import InvalidArgumentError
from shimpy.transport.methods import Metadata
from shimpy.transport.ttrpc import codes

# How many fields an envelope may have, and each of the messages in it, what is unknown included: reading one
# holds the event loop for about a microsecond.
MAX_FIELDS: Final = 1_024
_MAX_INNER_FIELDS: Final = 8

# Bytes of the message of a status. The service has cut what a runtime says to less; this is for the rest.
MAX_STATUS_MESSAGE: Final = 4 * 1024

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Request(NamedTuple):
    """What a client asks.

    Attributes:
        service: its full name.
        method: its name in the service.
        payload: the encoded message.
        timeout: nanoseconds from now until the client's deadline; 0 without one, negative if it has passed.
        metadata: whatever else the client has to say.
    """

    service: str
    method: str
    payload: bytes
    timeout: int = 0
    metadata: Metadata = ()


class Response(NamedTuple):
    """What a server answers.

    Attributes:
        payload: the encoded message, if the call went well.
        code: the number of the status, see `codes`.
        message: of the status, for people.
    """

    payload: bytes = b""
    code: int = codes.OK
    message: str = ""


def encode_request(request: Request) -> bytes:
    """Returns the payload of a REQUEST frame."""
    parts = [
        _delimited(1, request.service.encode()),
        _delimited(2, request.method.encode()),
        _delimited(3, request.payload),
        _number(4, request.timeout),
    ]
    for key, value in request.metadata:
        pair = _delimited(1, key.encode()) + _delimited(2, value.encode())
        parts.append(b"\x2a" + _varint(len(pair)) + pair)
    return b"".join(parts)


def decode_request(data: bytes) -> Request:
    """Returns what a REQUEST frame says.

    Raises:
        InvalidArgumentError: it is not an encoded Request.
    """
    service = method = ""
    payload = b""
    timeout = 0
    metadata: list[tuple[str, str]] = []
    for number, wire_type, value in _fields("Request", data, MAX_FIELDS):
        if number == 1:
            service = _text("Request.service", wire_type, value)
        elif number == 2:
            method = _text("Request.method", wire_type, value)
        elif number == 3:
            payload = _bytes("Request.payload", wire_type, value)
        elif number == 4:
            timeout = _int64("Request.timeout_nano", wire_type, value)
        elif number == 5:
            metadata.append(_decode_pair(_bytes("Request.metadata", wire_type, value)))
    return Request(service, method, payload, timeout, tuple(metadata))


def _decode_pair(data: bytes) -> tuple[str, str]:
    """Returns key and value of one entry of the metadata."""
    key = value = ""
    for number, wire_type, text in _fields("KeyValue", data, _MAX_INNER_FIELDS):
        if number == 1:
            key = _text("KeyValue.key", wire_type, text)
        elif number == 2:
            value = _text("KeyValue.value", wire_type, text)
    return key, value


def encode_response(response: Response) -> bytes:
    """Returns the payload of a RESPONSE frame; the message of a status is cut to MAX_STATUS_MESSAGE bytes."""
    if response.code == codes.OK:
        return _delimited(2, response.payload)
    # Names of files may hold bytes that are not UTF-8, which Python has as lone surrogates.
    message = response.message.encode("utf-8", "backslashreplace")
    if len(message) > MAX_STATUS_MESSAGE:
        message = message[: MAX_STATUS_MESSAGE - 3].decode("utf-8", "ignore").encode() + b"..."
    return _delimited(1, _number(1, response.code) + _delimited(2, message))


def decode_response(data: bytes) -> Response:
    """Returns what a RESPONSE frame says.

    Raises:
        InvalidArgumentError: it is not an encoded Response.
    """
    payload = b""
    code = codes.OK
    message = ""
    for number, wire_type, value in _fields("Response", data, MAX_FIELDS):
        if number == 1:
            status = _bytes("Response.status", wire_type, value)
            for inner, inner_type, part in _fields("Status", status, MAX_FIELDS):
                if inner == 1:
                    code = _int64("Status.code", inner_type, part)
                elif inner == 2:
                    message = _text("Status.message", inner_type, part)
        elif number == 2:
            payload = _bytes("Response.payload", wire_type, value)
    return Response(payload, code, message)


def _varint(value: int) -> bytes:
    """Returns a number as protobuf writes it: seven bits a byte, the lowest first."""
    if value < 0:
        value += 1 << 64
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(number: int, value: int) -> bytes:
    return bytes([number << 3 | _VARINT]) + _varint(value) if value else b""


def _delimited(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _varint(len(value)) + value if value else b""


def _read_varint(what: str, data: bytes, start: int) -> tuple[int, int]:
    """Returns the number that begins at a position, and the position behind it."""
    value = shift = 0
    for at in range(start, min(len(data), start + 10)):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + 1
        shift += 7
    raise InvalidArgumentError(f"{what}: malformed message: a number does not end, or is too long")


def _fields(what: str, data: bytes, limit: int) -> Iterator[tuple[int, int, int | bytes]]:
    """Yields number, wire type and value of each field, of those of fixed size the bytes."""
    position, end = 0, len(data)
    while position < end:
        limit -= 1
        if limit < 0:
            raise InvalidArgumentError(f"{what}: too many fields")
        tag, position = _read_varint(what, data, position)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise InvalidArgumentError(f"{what}: malformed message: there is no field number {number}")
        if wire_type == _VARINT:
            value, position = _read_varint(what, data, position)
            yield number, wire_type, value
            continue
        if wire_type == _BYTES:
            length, position = _read_varint(what, data, position)
        elif wire_type in {_FIXED32, _FIXED64}:
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise InvalidArgumentError(f"{what}: malformed message: wire type {wire_type} is not proto3's")
        if length > end - position:
            raise InvalidArgumentError(f"{what}: malformed message: it ends within a field")
        yield number, wire_type, data[position : position + length]
        position += length


def _bytes(what: str, wire_type: int, value: int | bytes) -> bytes:
    if wire_type != _BYTES or not isinstance(value, bytes):
        raise InvalidArgumentError(f"{what}: it has the wrong wire type, {wire_type}")
    return value


def _text(what: str, wire_type: int, value: int | bytes) -> str:
    try:
        return _bytes(what, wire_type, value).decode()
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"{what}: it is not UTF-8") from None


def _int64(what: str, wire_type: int, value: int | bytes) -> int:
    if not isinstance(value, int):
        raise InvalidArgumentError(f"{what}: it has the wrong wire type, {wire_type}")
    return value - (1 << 64) if value >> 63 else value
