"""What goes wrong in a call comes as a status; each call is a line in the log."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from betterproto.lib.google.protobuf import Empty
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from shimpy import api
from shimpy.errors import ShimError
from shimpy.transport.grpc.limits import MAX_STATUS_MESSAGE
from tests.support.fake import FakeShim, failure, raises

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", ShimError.__subclasses__())
async def test_an_error_of_ours_carries_its_status_and_message(
    fake: FakeShim, either: api.ShimStub, kind: type[ShimError]
) -> None:
    raises(fake, kind("bundle: /ünwell is not there"))

    error = await failure(either.create(api.CreateRequest()))

    assert (error.status, error.message) == (Status[kind.code], "bundle: /ünwell is not there")


async def test_any_other_error_is_INTERNAL_and_its_traceback_goes_to_the_log(  # noqa: N802
    fake: FakeShim, either: api.ShimStub, caplog: pytest.LogCaptureFixture
) -> None:
    raises(fake, ValueError("secret"))

    error = await failure(either.create(api.CreateRequest()))

    assert error.status is Status.INTERNAL
    assert "secret" not in (error.message or "")
    assert "secret" in caplog.text


@pytest.mark.parametrize("inner", [TimeoutError(), ConnectionResetError(), AssertionError(), EOFError()])
async def test_errors_that_grpclib_takes_for_its_own_are_INTERNAL(  # noqa: N802
    fake: FakeShim, either: api.ShimStub, inner: Exception
) -> None:
    raises(fake, inner)

    assert (await failure(either.create(api.CreateRequest(), timeout=30))).status is Status.INTERNAL


async def test_a_status_UNKNOWN_is_not_passed_on(  # noqa: N802
    fake: FakeShim, either: api.ShimStub
) -> None:
    raises(fake, GRPCError(Status.UNKNOWN, "what"))

    error = await failure(either.create(api.CreateRequest()))

    assert (error.status, error.message) == (Status.INTERNAL, "what")


async def test_a_call_that_cancels_itself_does_not_leave_its_client_waiting(
    fake: FakeShim, either: api.ShimStub
) -> None:
    raises(fake, asyncio.CancelledError())

    assert (await failure(either.create(api.CreateRequest()))).status is Status.INTERNAL
    assert (await either.state(api.StateRequest())).id == "fake"


@pytest.mark.parametrize("character", ["x", "ü", "\N{GRINNING FACE}", "\n", "%"])
async def test_a_message_is_bounded_as_it_is_encoded(
    fake: FakeShim, path: Path, foreign: tuple[ModuleType, ModuleType], character: str
) -> None:
    messages, stubs = foreign
    raises(fake, ShimError(character * 100_000))
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stubs.ShimStub(channel).Create(messages.CreateRequest())

    details = error.value.details() or ""
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert details.startswith(character * (MAX_STATUS_MESSAGE // 12 - 1))
    assert details.endswith("...")


async def test_a_message_that_is_no_text_arrives(fake: FakeShim, either: api.ShimStub) -> None:
    raises(fake, ShimError("file \udcff\ud800"))

    assert (await failure(either.create(api.CreateRequest()))).message == "file \\udcff\\ud800"


async def test_a_reply_that_cannot_be_encoded_is_INTERNAL(  # noqa: N802
    fake: FakeShim, either: api.ShimStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nonsense(_: api.StateRequest) -> Any:
        return Empty()

    monkeypatch.setattr(fake, "state", nonsense)

    assert (await failure(either.state(api.StateRequest()))).status is Status.INTERNAL


async def test_a_method_that_is_not_written_is_UNIMPLEMENTED(either: api.ShimStub) -> None:  # noqa: N802
    assert (await failure(either.resume(api.ResumeRequest()))).status is Status.UNIMPLEMENTED


async def test_each_call_is_a_line_at_debug(
    fake: FakeShim, stub: api.ShimStub, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "shimpy.rpc"):
        await stub.state(api.StateRequest())
        raises(fake, ShimError("no"))
        await failure(stub.create(api.CreateRequest()))
        await failure(stub.resume(api.ResumeRequest()))

    lines = [(record.__dict__["method"], record.__dict__["status"]) for record in caplog.records]
    assert lines == [
        ("/containerd.shim.v1.Shim/State", "OK"),
        ("/containerd.shim.v1.Shim/Create", "INTERNAL"),
        ("/containerd.shim.v1.Shim/Resume", "UNIMPLEMENTED"),
    ]
