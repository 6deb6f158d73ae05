"""Whom a client connects to: the shim of its own user, or root's, and nobody else."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shimpy
from shimpy.transport.grpc import GrpcServer
from tests.support import leaks
from tests.support.fake import FakeShim

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can serve as another user"),
]

Listen = Callable[..., socket.socket]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Listen]:
    """Makes sockets that listen, as the kernel sees it, for a user: `listen("name", uid=1000)`."""
    made: list[socket.socket] = []

    def make(name: str, *, uid: int) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        made.append(listener)
        listener.bind(str(tmp_path / name))
        # listen(2) is what SO_PEERCRED goes by (unix(7)).
        os.seteuid(uid)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        return listener

    yield make
    for listener in made:
        listener.close()


def heard(listener: socket.socket) -> bytes:
    """Returns what came over the connection that waits to be accepted."""
    connection, _ = listener.accept()
    with connection:
        return connection.recv(100)


async def test_a_server_of_another_user_is_refused_and_hears_nothing(listen: Listen, tmp_path: Path) -> None:
    listener = listen("s", uid=65534)
    before = leaks.descriptors()

    with pytest.raises(shimpy.PermissionDeniedError, match=rf"{tmp_path}/s: process .* of user 65534"):
        async with shimpy.connect(tmp_path / "s"):
            pass

    assert heard(listener) == b""
    assert leaks.opened_since(before) == []


async def test_a_server_of_another_user_is_refused_whatever_the_length_of_its_path(
    listen: Listen, tmp_path: Path
) -> None:
    listener = listen("s", uid=65534)
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    shutil.move(tmp_path / "s", directory / "s")

    with pytest.raises(shimpy.PermissionDeniedError, match=f"{directory}/s"):
        async with shimpy.connect(directory / "s"):
            pass

    assert heard(listener) == b""


@pytest.mark.parametrize(("server", "client"), [(0, 0), (0, 1000), (1000, 1000)])
async def test_a_server_of_root_or_the_same_user_is_trusted(
    listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: int, client: int
) -> None:
    serving = GrpcServer([FakeShim()])
    await serving.start(listen("s", uid=server))
    monkeypatch.setattr(os, "geteuid", lambda: client)

    async with shimpy.connect(tmp_path / "s") as shim:
        assert (await shim.state()).id == "fake"

    await serving.drain(0)


async def test_who_takes_the_place_of_a_shim_that_has_ended_hears_nothing(
    listen: Listen, tmp_path: Path
) -> None:
    serving = GrpcServer([FakeShim()])
    await serving.start(listen("s", uid=0))
    async with shimpy.connect(tmp_path / "s") as shim:
        await serving.drain(0)
        os.unlink(tmp_path / "s")
        usurper = listen("s", uid=65534)

        with pytest.raises(shimpy.PermissionDeniedError):
            await shim.exec(["sh", "-c", "a secret"])

    assert heard(usurper) == b""


async def test_a_server_whose_queue_is_full_is_said_not_to_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        waiting.connect(str(tmp_path / "s"))

        with pytest.raises(shimpy.UnavailableError, match="temporarily unavailable"):
            async with shimpy.connect(tmp_path / "s"):
                pass
