"""Health and reflection, as Google's own clients use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from shimpy.core.supervisor import Supervisor
from shimpy.services.lazy_services import HEALTH, REFLECTION, TASK, LazyServices
from shimpy.transport.grpc import GrpcServer
from tests.support.fake import FakeShim, serving
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

SHIM = "containerd.shim.v1.Shim"

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def standard() -> LazyServices:
    return LazyServices(SHIM, supervisor=Supervisor())


@pytest.fixture
async def at(standard: LazyServices) -> AsyncIterator[tuple[GrpcServer, Path]]:
    async with serving(FakeShim(), later=standard.later) as running:
        yield running


@pytest.fixture
async def channel(at: tuple[GrpcServer, Path]) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{at[1]}") as channel:
        yield channel


class TestHealth:
    @pytest.mark.parametrize("service", ["", SHIM])
    async def test_what_is_served_is_SERVING(self, channel: grpc.aio.Channel, service: str) -> None:  # noqa: N802
        stub = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))

        assert reply.status == SERVING

    async def test_what_is_not_is_NOT_FOUND(self, channel: grpc.aio.Channel) -> None:  # noqa: N802
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))

        assert error.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_all_can_be_listed(self, channel: grpc.aio.Channel) -> None:
        reply = await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())

        assert {name: each.status for name, each in reply.statuses.items()} == {"": SERVING, SHIM: SERVING}

    async def test_who_watches_hears_of_the_end(
        self, at: tuple[GrpcServer, Path], standard: LazyServices, channel: grpc.aio.Channel
    ) -> None:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in (SHIM, "nobody")]
        replies = [aiter(watch) for watch in watches]
        first = [(await anext(each)).status for each in replies]
        await at[0].drain(1, end_streams=standard.close)
        rest = [[reply.status async for reply in each] for each in replies]

        assert first == [SERVING, SERVICE_UNKNOWN]
        assert rest == [[NOT_SERVING], []]
        assert [await watch.code() for watch in watches] == [grpc.StatusCode.OK] * 2


class TestReflection:
    async def test_a_generic_client_finds_and_calls_every_service(self, process: str) -> None:
        with grpc.insecure_channel(f"unix:{process}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = descriptor_pool.DescriptorPool(database)
            assert {*database.get_services()} == {SHIM, HEALTH, *REFLECTION, *TASK}
            for name in database.get_services():
                assert pool.FindServiceByName(name).full_name == name

            method = pool.FindServiceByName(SHIM).methods_by_name["State"]
            assert call(channel, method).id == ""
            check = pool.FindServiceByName(HEALTH).methods_by_name["Check"]
            assert call(channel, check).status == SERVING

    async def test_options_that_betterproto_does_not_know_are_there(self, process: str) -> None:
        with grpc.insecure_channel(f"unix:{process}") as channel:
            pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            options = pool.FindMessageTypeByName("containerd.shim.v1.CreateRequest").fields_by_name["id"]

            assert b"ID" in options.GetOptions().SerializeToString()

    @pytest.mark.parametrize("edition", REFLECTION)
    @pytest.mark.parametrize(
        ("question", "answer"),
        [
            ({"file_by_filename": "shim.proto"}, 5),
            ({"file_by_filename": "nowhere.proto"}, grpc.StatusCode.NOT_FOUND),
            ({"file_containing_symbol": SHIM}, 5),
            ({"file_containing_symbol": f"{SHIM}.Create"}, 5),
            ({"file_containing_symbol": "containerd.shim.v1.Rlimit.hard"}, 5),
            ({"file_containing_symbol": "containerd.shim.v1.State"}, 5),
            ({"file_containing_symbol": "grpc.health.v1.HealthCheckResponse.ServingStatus"}, 1),
            ({"file_containing_symbol": "nothing"}, grpc.StatusCode.NOT_FOUND),
            ({}, grpc.StatusCode.INVALID_ARGUMENT),
        ],
    )
    async def test_answers(
        self, channel: grpc.aio.Channel, edition: str, question: dict[str, str], answer: Any
    ) -> None:
        (reply,) = await ask(channel, edition, reflection_pb2.ServerReflectionRequest(host="h", **question))

        assert reply.valid_host == "h"
        assert reply.original_request == reflection_pb2.ServerReflectionRequest(host="h", **question)
        if isinstance(answer, int):
            assert 1 <= len(reply.file_descriptor_response.file_descriptor_proto) <= answer
        else:
            assert reply.error_response.error_code == answer.value[0]

    async def test_extensions(self, channel: grpc.aio.Channel) -> None:
        options = "google.protobuf.FieldOptions"
        extension = reflection_pb2.ExtensionRequest(containing_type=options, extension_number=65004)
        unknown = reflection_pb2.ExtensionRequest(containing_type=options, extension_number=1)
        found, missing, numbers, none = await ask(
            channel,
            REFLECTION[0],
            reflection_pb2.ServerReflectionRequest(file_containing_extension=extension),
            reflection_pb2.ServerReflectionRequest(file_containing_extension=unknown),
            reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type=options),
            reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="nothing"),
        )

        assert b"gogo" in found.file_descriptor_response.file_descriptor_proto[0]
        assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert list(numbers.all_extension_numbers_response.extension_number) == [65004]
        assert none.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]

    async def test_a_conversation_ends_with_the_server(
        self, at: tuple[GrpcServer, Path], standard: LazyServices, channel: grpc.aio.Channel
    ) -> None:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asking = asyncio.Event()

        async def questions() -> AsyncIterator[Any]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            await asking.wait()

        talk = stub.ServerReflectionInfo(questions())
        replies = aiter(talk)
        await anext(replies)
        async with asyncio.timeout(3):
            await at[0].drain(1, end_streams=standard.close)

        assert [reply async for reply in replies] == []
        asking.set()
        assert await talk.code() is grpc.StatusCode.OK


@pytest.fixture
async def process(server: Server) -> str:
    """The socket of a real shim."""
    return str(server.socket)


def call(channel: grpc.Channel, method: Any) -> Any:
    """Calls a method that nothing but its descriptor is known of, with an empty request."""
    invoke = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return invoke(GetMessageClass(method.input_type)())


async def ask(channel: grpc.aio.Channel, edition: str, *requests: Any) -> list[Any]:
    """Has a conversation with the reflection service."""
    talk = channel.stream_stream(
        f"/{edition}/ServerReflectionInfo",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [reply async for reply in talk(iter(requests))]
