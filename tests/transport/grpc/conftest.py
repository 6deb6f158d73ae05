"""A server of the transport alone, before a fake shim, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.testing import ChannelFor

from shimpy import api
from shimpy.transport.grpc import GrpcServer
from tests.support.fake import FakeShim, serving
from tests.support.rawhttp2 import RawClient, connect


@pytest.fixture
def fake() -> FakeShim:
    return FakeShim()


@pytest.fixture
async def at(fake: FakeShim) -> AsyncIterator[tuple[GrpcServer, Path]]:
    async with serving(fake) as running:
        yield running


@pytest.fixture
def path(at: tuple[GrpcServer, Path]) -> Path:
    return at[1]


@pytest.fixture
async def stub(path: Path) -> AsyncIterator[api.ShimStub]:
    channel = Channel(path=str(path))
    yield api.ShimStub(channel)
    channel.close()


@pytest.fixture
async def raw(path: Path) -> AsyncIterator[RawClient]:
    async with connect(path) as client:
        yield client


@pytest.fixture(params=["socket", "in process"])
async def either(request: pytest.FixtureRequest, fake: FakeShim) -> AsyncIterator[api.ShimStub]:
    """A client of the fake on shimpy's own server, and on grpclib's."""
    if request.param == "socket":
        async with serving(fake) as (_, path):
            channel = Channel(path=str(path))
            yield api.ShimStub(channel)
            channel.close()
    else:
        async with ChannelFor([fake]) as channel:
            yield api.ShimStub(channel)


@pytest.fixture
async def bystander(path: Path) -> AsyncIterator[RawClient]:
    """Another client, which is to notice nothing."""
    async with connect(path) as client:
        assert (await client.answer(client.request())).status is Status.OK
        yield client
        assert (await client.answer(client.request())).status is Status.OK
