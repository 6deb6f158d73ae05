"""Protobuf, as much of it as start, delete and -info need: the messages have a handful of fields."""

from __future__ import annotations

from shimpy.daemon.containerd.errors import MalformedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Value = int | bytes


def read(data: bytes) -> dict[int, list[Value]]:
    """Returns the values of each field: of numbers as they are on the wire, of everything else the bytes.

    Args:
        data: an encoded message.

    Raises:
        MalformedError: it is not one.
    """
    fields: dict[int, list[Value]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value: Value
        if kind == _VARINT:
            value, at = _varint(data, at)
        else:
            if kind == _BYTES:
                length, at = _varint(data, at)
            elif kind in (_FIXED32, _FIXED64):
                length = 4 if kind == _FIXED32 else 8
            else:
                raise MalformedError(f"wire type {kind}")
            value, at = data[at : at + length], at + length
        if at > len(data) or not tag >> 3:
            raise MalformedError("it ends within a field, or has one of number 0")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def text(fields: Mapping[int, Sequence[Value]], number: int) -> str:
    """Returns a string field, empty if it is not there.

    Raises:
        MalformedError: it is not text.
    """
    value = blob(fields, number)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedError(f"field {number} is not UTF-8") from None


def blob(fields: Mapping[int, Sequence[Value]], number: int) -> bytes:
    """Returns a field of bytes, or an encoded message, empty if it is not there.

    Raises:
        MalformedError: it is a number.
    """
    value = fields.get(number, (b"",))[-1]
    if isinstance(value, int):
        raise MalformedError(f"field {number} is a number")
    return value


def int32(fields: Mapping[int, Sequence[Value]], number: int) -> int:
    """Returns a number, or the number of an enum, 0 if it is not there.

    Raises:
        MalformedError: it is not a number.
    """
    value = fields.get(number, (0,))[-1]
    if not isinstance(value, int):
        raise MalformedError(f"field {number} is not a number")
    value &= (1 << 32) - 1
    return value - (1 << 32) if value >> 31 else value


def write(fields: Mapping[int, int | str | bytes]) -> bytes:
    """Returns an encoded message.

    Args:
        fields: the value of each, numbers from 0 on; what is empty or 0 is left out, as proto3 does.
    """
    data = b""
    for number, value in fields.items():
        if isinstance(value, int):
            data += _encode(number << 3 | _VARINT) + _encode(value) if value else b""
        elif value:
            encoded = value.encode() if isinstance(value, str) else value
            data += _encode(number << 3 | _BYTES) + _encode(len(encoded)) + encoded
    return data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number that begins at a position, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise MalformedError("a number does not end")


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
