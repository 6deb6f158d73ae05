"""Protobuf: requests are decoded strictly, as the wire format and a message's fields allow, nothing else.

The schema is read off the generated classes, so that nothing of shim.proto is written twice.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from functools import cache
from typing import Any, NamedTuple, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

import betterproto

from shimpy.errors import InvalidArgumentError

# How many fields one message may have, those of nested messages and the entries of packed lists included.
# The kernel takes about 2 MiB of arguments and environment (execve(2)), so this leaves room for the longest
# command lines that people write, and bounds the time that the event loop is held to about 20 ms.
MAX_FIELDS = 16_384

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# How many values of each kind of field that is a varint on the wire are allowed; whatever is not here is
# followed by its length.
_VARINTS = {**dict.fromkeys(("bool", "enum", "int32", "int64", "uint64"), 1 << 64), "uint32": 1 << 32}
_ONE_BYTE = [bytes([value]) for value in range(0x80)]
_DELIMITED = frozenset({"string", "bytes", "message", "map"})

_Message = TypeVar("_Message", bound=betterproto.Message)


class _Field(NamedTuple):
    name: str
    kind: str
    repeated: bool
    type: Any  # the class of a message, of an enum or of a map's entries
    rivals: tuple[str, ...]  # the other fields of its oneof
    explicit: bool  # whether it is sent when it is set, to whatever value


class _MalformedError(Exception):
    """The bytes break the rules of the wire format, whatever they were to mean."""


def decode(message_type: type[_Message], data: bytes) -> _Message:
    """Decodes a message, refusing whatever a correct encoder would not have written.

    As proto3 demands, fields that the schema does not know are skipped, the last of several values of a
    field wins, several occurrences of a message are merged, and lists of numbers come packed or not.
    Stricter than protobuf: a known field of the wrong type and a number that does not fit its field are
    refused instead of being dropped or cut, and so are groups, which proto3 does not have.

    Args:
        message_type: a class that betterproto has generated.
        data: the encoded message.

    Raises:
        InvalidArgumentError: naming the message and, where there is one, the field.
    """
    values: dict[str, Any] = {}
    _Decoder(data).message(message_type, 0, len(data), values)
    return _build(message_type, values)


def encode(message: betterproto.Message) -> bytes:
    """Encodes a message of a class that betterproto has generated, quicker than `bytes(message)`."""
    parts: list[bytes] = []
    values = vars(message)
    for number, field in _schema(type(message)).items():
        value = values[field.name]
        if value is betterproto.PLACEHOLDER or value is None:
            continue
        if field.kind == "map":
            value = [field.type(key=key, value=each) for key, each in value.items()]
        elif field.repeated and field.kind in _VARINTS:
            packed = b"".join(map(_varint, value))
            if packed:
                parts += (_varint(number << 3 | _BYTES), _varint(len(packed)), packed)
            continue
        for each in value if field.repeated else (value,):
            if field.kind in _VARINTS:
                if each or field.explicit:
                    parts += (_varint(number << 3 | _VARINT), _varint(each))
                continue
            if field.kind == "string":
                data = each.encode()
            else:
                data = each if field.kind == "bytes" else encode(each)
            if (
                data
                or field.repeated
                or field.explicit
                or (field.kind == "message" and each._serialized_on_wire)
            ):
                parts += (_varint(number << 3 | _BYTES), _varint(len(data)), data)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """Returns a number as it is written, seven bits a byte; a negative one as one of 64 bits."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class _Decoder:
    """One pass over one encoded message."""

    __slots__ = ("_data", "_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_FIELDS

    def message(self, cls: type[betterproto.Message], pos: int, end: int, values: dict[str, Any]) -> None:
        """Reads the fields between two positions into `values`, nested messages as dictionaries."""
        data = self._data
        known = _schema(cls)
        field: _Field | None = None
        try:
            while pos < end:
                field = None
                self._count(cls)
                # Nearly every tag and length is one byte: a call for each would take half of the time.
                tag = data[pos]
                if tag < 0x80:
                    pos += 1
                else:
                    tag, pos = self._varint(pos, end, longest=5)
                number, wire_type = tag >> 3, tag & 7
                if not 0 < number < 1 << 29:
                    _malformed(f"there is no field number {number}")
                field = known.get(number)
                if wire_type == _VARINT:
                    value, pos = self._varint(pos, end)
                    if field is not None:
                        _store(field, _number(cls, field, value), values)
                elif wire_type == _BYTES:
                    if pos < end and data[pos] < 0x80:
                        length = data[pos]
                        pos += 1
                    else:
                        length, pos = self._varint(pos, end, longest=5)
                    if length > end - pos:
                        _malformed(f"{length} bytes were announced, {end - pos} are there")
                    if field is not None:
                        self._delimited(cls, field, pos, pos + length, values)
                    pos += length
                elif wire_type in {_FIXED64, _FIXED32}:
                    if field is not None:
                        _refuse(cls, field, f"a number of fixed size is not a {field.kind}")
                    pos += 8 if wire_type == _FIXED64 else 4
                    if pos > end:
                        _malformed("it ends within a field")
                else:
                    _malformed(f"wire type {wire_type} is not one of proto3's")
        except _MalformedError as error:
            where = f"{cls.__name__}.{field.name}" if field else cls.__name__
            raise InvalidArgumentError(f"{where}: malformed message: {error}") from None

    def _varint(self, pos: int, end: int, *, longest: int = 10) -> tuple[int, int]:
        """Returns a number of seven bits a byte, and the position behind it."""
        data = self._data
        value = shift = 0
        for at in range(pos, min(end, pos + longest)):
            byte = data[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, at + 1
            shift += 7
        else:
            if end < pos + longest:
                raise _MalformedError("it ends within a number")
        raise _MalformedError("a number is too long")

    def _delimited(
        self, cls: type[betterproto.Message], field: _Field, pos: int, end: int, values: dict[str, Any]
    ) -> None:
        """Reads what was announced with a length: text, bytes, a message, or a packed list of numbers."""
        if field.kind == "string":
            try:
                _store(field, str(self._data[pos:end], "utf-8"), values)
            except UnicodeDecodeError:
                _refuse(cls, field, "it is not UTF-8")
        elif field.kind in {"message", "map"}:
            nested = values.get(field.name)
            if field.repeated:
                values.setdefault(field.name, []).append(nested := {})
            elif nested is None:
                _store(field, nested := {}, values)
            self.message(field.type, pos, end, nested)
        elif field.kind == "bytes":
            _store(field, self._data[pos:end], values)
        elif field.repeated:
            while pos < end:
                self._count(cls)
                value, pos = self._varint(pos, end)
                _store(field, _number(cls, field, value), values)
            values.setdefault(field.name, [])
        else:
            _refuse(cls, field, f"bytes are not a {field.kind}")

    def _count(self, cls: type[betterproto.Message]) -> None:
        self._left -= 1
        if self._left < 0:
            raise InvalidArgumentError(f"{cls.__name__}: more than {MAX_FIELDS} fields in one message")


def _store(field: _Field, value: Any, values: dict[str, Any]) -> None:
    if field.repeated:
        values.setdefault(field.name, []).append(value)
        return
    for rival in field.rivals:
        values.pop(rival, None)
    values[field.name] = value


def _number(cls: type[betterproto.Message], field: _Field, value: int) -> Any:
    """Returns what a varint means in a field."""
    limit = _VARINTS.get(field.kind)
    if limit is None:
        _refuse(cls, field, f"a number is not a {field.kind}")
    if value >= limit:
        _refuse(cls, field, f"{value} does not fit in a {field.kind}")
    if field.kind == "bool":
        return value != 0
    if field.kind in {"int32", "int64", "enum"}:
        # A negative number is written as one of 64 bits.
        signed = value - (1 << 64) if value >> 63 else value
        if field.kind == "int64":
            return signed
        if not -(1 << 31) <= signed < 1 << 31:
            _refuse(cls, field, f"{signed} does not fit in an {field.kind}")
        return field.type.try_value(signed) if field.kind == "enum" else signed
    return value


def _malformed(why: str) -> NoReturn:
    raise _MalformedError(why)


def _refuse(cls: type[betterproto.Message], field: _Field, why: str) -> NoReturn:
    raise InvalidArgumentError(f"{cls.__name__}.{field.name}: {why}")


def _build(cls: type[_Message], values: dict[str, Any]) -> _Message:
    """Makes the message, and those within it, of what was read."""
    for field in _schema(cls).values():
        if field.kind == "message" and field.name in values:
            value = values[field.name]
            values[field.name] = (
                [_build(field.type, each) for each in value] if field.repeated else _build(field.type, value)
            )
        elif field.kind == "map" and field.name in values:
            entries = [_build(field.type, each) for each in values[field.name]]
            values[field.name] = {entry.key: entry.value for entry in entries}
    message = cls(**values)
    # An empty message that was sent is not one that was left out.
    message._serialized_on_wire = True
    return message


@cache
def _schema(cls: type[betterproto.Message]) -> dict[int, _Field]:
    """Returns the fields of a generated class by their numbers."""
    hints = get_type_hints(cls, vars(sys.modules[cls.__module__]))
    declared = {field.name: betterproto.FieldMetadata.get(field) for field in fields(cast(Any, cls))}
    schema = {}
    for name, meta in declared.items():
        if meta.proto_type not in _VARINTS and meta.proto_type not in _DELIMITED:
            raise NotImplementedError(f"{cls.__name__}.{name}: fields of type {meta.proto_type}")
        repeated = get_origin(hints[name]) is list
        of: Any = get_args(hints[name])[0] if repeated else hints[name]
        if meta.proto_type == "map":
            # On the wire it is a list of entries, whose class betterproto has made.
            repeated, of = True, cast(Any, cls)._betterproto.cls_by_field[name]
        schema[meta.number] = _Field(
            name,
            meta.proto_type,
            repeated,
            of,
            tuple(
                other
                for other, its in declared.items()
                if meta.group and its.group == meta.group and other != name
            ),
            bool(meta.group or meta.optional),
        )
    return schema
