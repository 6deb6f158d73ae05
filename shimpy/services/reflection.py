"""The standard reflection service: what is served, for tools that were not compiled for it.

gRPC's doc/server-reflection.md, in both of its editions, which differ in their name alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any, NamedTuple, Protocol

import betterproto
from betterproto.lib.google.protobuf import DescriptorProto, FileDescriptorProto
from grpclib.const import Cardinality, Handler, Status

from shimpy.api.reflection import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from shimpy.transport.grpc import wrap


class _Stream(Protocol):
    async def recv_message(self) -> ServerReflectionRequest | None: ...

    async def send_message(self, message: ServerReflectionResponse) -> None: ...


class Reflection:
    """Answers from the descriptors that were generated with the API.

    Args:
        services: the full names of the services that are served.
        editions: the full names that the service itself goes by.
    """

    def __init__(self, services: Iterable[str], editions: Iterable[str]) -> None:
        self._services = sorted(services)
        self._editions = editions
        self._ending = asyncio.Event()
        data = resources.files("shimpy.api").joinpath("shim.binpb").read_bytes()
        self._files = _Files(data)

    def __mapping__(self) -> dict[str, Handler]:
        """Returns the handlers of the calls, as grpclib serves them."""
        handler = Handler(
            self._converse, Cardinality.STREAM_STREAM, ServerReflectionRequest, ServerReflectionResponse
        )
        return wrap({f"/{name}/ServerReflectionInfo": handler for name in self._editions})

    def close(self) -> None:
        """Ends every conversation."""
        self._ending.set()

    async def _converse(self, stream: _Stream) -> None:
        while (request := await self._next(stream)) is not None:
            await stream.send_message(
                ServerReflectionResponse(
                    valid_host=request.host, original_request=request, **self._answer(request)
                )
            )

    async def _next(self, stream: _Stream) -> ServerReflectionRequest | None:
        """Returns the next request, or None when the client or the server ends the conversation."""
        receiving = asyncio.ensure_future(stream.recv_message())
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({receiving, ending}, return_when=asyncio.FIRST_COMPLETED)
            return receiving.result() if receiving.done() else None
        finally:
            for each in (receiving, ending):
                each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await receiving

    def _answer(self, request: ServerReflectionRequest) -> dict[str, Any]:
        """Returns the field of the response that answers a request."""
        asked: str
        value: Any
        asked, value = betterproto.which_one_of(request, "message_request")
        files = self._files
        match asked:
            case "list_services":
                names = [ServiceResponse(name=name) for name in self._services]
                return {"list_services_response": ListServiceResponse(service=names)}
            case "file_by_filename":
                return _found(value, files.by_name.get(value))
            case "file_containing_symbol":
                return _found(value, files.by_symbol.get(value))
            case "file_containing_extension":
                key = (value.containing_type, value.extension_number)
                return _found(f"extension {key[1]} of {key[0]}", files.by_extension.get(key))
            case "all_extension_numbers_of_type":
                if value not in files.by_symbol:
                    return _missing(value)
                numbers = sorted(number for extended, number in files.by_extension if extended == value)
                answer = ExtensionNumberResponse(base_type_name=value, extension_number=numbers)
                return {"all_extension_numbers_response": answer}
            case _:
                return _error(Status.INVALID_ARGUMENT, "the request asks for nothing that is known here")


class _File(NamedTuple):
    """A proto file, and the encoded descriptors of it and all that it imports."""

    name: str
    descriptors: list[bytes]


class _Files:
    """The proto files of a FileDescriptorSet, by what may be asked for."""

    def __init__(self, data: bytes) -> None:
        encoded = dict(_split(data))
        parsed = {name: FileDescriptorProto().parse(each) for name, each in encoded.items()}
        self.by_name: dict[str, _File] = {}
        self.by_symbol: dict[str, _File] = {}
        self.by_extension: dict[tuple[str, int], _File] = {}
        for name, file in parsed.items():
            needed = [name]
            for each in needed:
                needed += [other for other in parsed[each].dependency if other not in needed]
            found = self.by_name[name] = _File(name, [encoded[each] for each in needed])
            prefix = f"{file.package}." if file.package else ""
            self.by_symbol.update(dict.fromkeys(_symbols(file, prefix), found))
            for extension in file.extension:
                self.by_extension[extension.extendee.lstrip("."), extension.number] = found


def _split(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the names of the files in a FileDescriptorSet, and their descriptors as they are encoded.

    Decoding and encoding them again would lose the options that betterproto does not know.
    """
    for field in betterproto.parse_fields(data):
        yield FileDescriptorProto().parse(field.value).name, field.value


def _symbols(file: FileDescriptorProto, prefix: str) -> Iterator[str]:
    """Yields the full name of everything that a file declares."""
    for service in file.service:
        yield prefix + service.name
        for method in service.method:
            yield f"{prefix}{service.name}.{method.name}"
    yield from (prefix + enum.name for enum in file.enum_type)
    yield from (prefix + extension.name for extension in file.extension)
    for message in file.message_type:
        yield from _nested(message, prefix)


def _nested(message: DescriptorProto, prefix: str) -> Iterator[str]:
    """Yields the full names of a message, of its fields and of what is declared within it."""
    name = prefix + message.name
    yield name
    yield from (f"{name}.{field.name}" for field in message.field)
    yield from (f"{name}.{enum.name}" for enum in message.enum_type)
    for inner in message.nested_type:
        yield from _nested(inner, f"{name}.")


def _found(what: str, file: _File | None) -> dict[str, Any]:
    if file is None:
        return _missing(what)
    return {"file_descriptor_response": FileDescriptorResponse(file_descriptor_proto=file.descriptors)}


def _missing(what: str) -> dict[str, Any]:
    return _error(Status.NOT_FOUND, f"there is no {what} here")


def _error(status: Status, message: str) -> dict[str, Any]:
    return {"error_response": ErrorResponse(error_code=status.value, error_message=message)}
