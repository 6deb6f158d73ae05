"""Peers that mean no good, or whose programs do not: they harm themselves at most."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shimpy.transport.ttrpc import TtrpcServer
from shimpy.transport.ttrpc.connection import MAX_UNREAD
from shimpy.transport.ttrpc.server import MAX_CONNECTIONS
from tests.support.leaks import eventually
from tests.support.rawttrpc import DATA, HEADER, REQUEST, Peer, connected, frame, request
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_errors_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No flood is an error of ours."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("cut", [1, 9, 10, 11, len(request(1)) - 1])
async def test_half_a_frame_and_no_more(path: Path, server: TtrpcServer, bystander: Peer, cut: int) -> None:
    async with connected(path) as peer:
        peer.send(request(1)[:cut])
        await peer.writer.drain()
        peer.writer.write_eof()
        assert await peer.hung_up()

    await eventually(lambda: server.connected == 1)


async def test_a_length_of_four_gigabytes_takes_no_memory(
    peer: Peer, server: TtrpcServer, bystander: Peer
) -> None:
    peer.send(HEADER.pack(2**32 - 1, 1, REQUEST, 0))
    gc.collect()
    tracemalloc.start()
    for _ in range(64):
        peer.send(bytes(1 << 20))
        await peer.writer.drain()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    # A mebibyte is on its way, and some is in the buffers of this test's own end.
    assert peak < 8 << 20


async def test_a_length_that_is_announced_takes_no_memory(path: Path, server: TtrpcServer) -> None:
    gc.collect()
    tracemalloc.start()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            peer = await stack.enter_async_context(connected(path))
            peer.send(frame(1, REQUEST, b"x", length=4 << 20))
        await eventually(lambda: server.connected == 50)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 50 * 256 * 1024


@contextlib.asynccontextmanager
async def flood(path: Path, unit: bytes) -> AsyncIterator[None]:
    """Sends the same again and again, and reads nothing."""
    with socket.socket(socket.AF_UNIX) as sender:
        sender.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sender, str(path))

        async def send() -> None:
            while True:
                await loop.sock_sendall(sender, unit * 1_000)
                await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.wait([sending])


@pytest.mark.parametrize(
    "unit",
    [frame(1, REQUEST), frame(2, REQUEST), frame(1, DATA), frame(1, REQUEST, b"\xff" * 20)],
    ids=["used", "even", "data", "malformed"],
)
async def test_a_peer_that_does_not_read_is_not_read_from(
    path: Path, server: TtrpcServer, bystander: Peer, unit: bytes
) -> None:
    async with flood(path, unit):
        await eventually(lambda: any(not each.transport.is_reading() for each in server._shared.connections))
        unread = [each.transport.get_write_buffer_size() for each in server._shared.connections]

        # The mark at which a transport pauses, and the answers to what had been read by then.
        assert max(unread) < 1 << 20


async def test_a_flood_that_is_not_answered_holds_up_only_itself(
    path: Path, server: TtrpcServer, peer: Peer
) -> None:
    async with flood(path, frame(1, 9)):
        for number in range(1, 41, 2):
            peer.send(request(number))
            assert (await peer.answer())[1] == "OK"


async def test_answers_that_are_not_read_end_the_connection(
    peer: Peer, server: TtrpcServer, bystander: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    # The connection that does not read is the first of the two.
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that both reads and writes
    peer.send(b"".join(request(2 * number + 1, "Long", "4000000") for number in range(10)))
    await eventually(lambda: server.connected == 1)

    assert [record.getMessage() for record in caplog.records] == [
        f"a connection is closed: its client leaves more than {MAX_UNREAD} bytes unread"
    ]


async def test_a_reset_in_the_middle_of_an_answer(path: Path, server: TtrpcServer, bystander: Peer) -> None:
    for _ in range(20):
        async with connected(path) as peer:
            peer.send(request(1, "Long", "4000000"))
            await peer.reader.readexactly(1000)

    await eventually(lambda: server.connected == 1)


async def test_random_bytes(path: Path, server: TtrpcServer, bystander: Peer) -> None:
    chance = random.Random(7)
    for _ in range(rounds(50, 5000)):
        async with connected(path) as peer:
            peer.send(chance.randbytes(chance.randrange(1, 3000)))
            with contextlib.suppress(ConnectionError):
                await peer.writer.drain()

    await eventually(lambda: server.connected == 1)


async def test_connections_are_bounded(path: Path, server: TtrpcServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(connected(path)) for _ in range(MAX_CONNECTIONS)]
        peers[-1].send(request(1))
        assert (await peers[-1].answer())[1] == "OK"
        async with connected(path) as one_more:
            assert await one_more.hung_up()
        peers[0].send(request(1))
        assert (await peers[0].answer())[1] == "OK"


_CONNECT = """
import os, socket, sys
path, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setgroups([]); os.setgid(gid); os.setuid(uid)
peer = socket.socket(socket.AF_UNIX)
peer.connect(path)
peer.settimeout(20)
try:
    peer.sendall(bytes.fromhex(sys.argv[4]))
    print(len(peer.recv(100)))
except ConnectionError:
    print(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("user", "group", "admitted"),
    [(0, 0, True), (0, 12345, True), (12345, 0, False), (12345, 12345, False)],
)
async def test_only_its_own_user_and_root_can_connect(
    path: Path, server: TtrpcServer, user: int, group: int, admitted: bool
) -> None:
    os.chmod(path.parent, 0o755)
    os.chmod(path, 0o777)

    assert bool(await _received_by(path, user, group)) is admitted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("user", "group", "admitted"),
    [(12345, 12345, True), (12345, 54321, False), (54321, 12345, False), (0, 0, True)],
)
async def test_the_group_has_to_be_the_same_too(
    path: Path, server: TtrpcServer, monkeypatch: pytest.MonkeyPatch, user: int, group: int, admitted: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "getegid", lambda: 12345)
    os.chmod(path.parent, 0o755)
    os.chmod(path, 0o777)

    assert bool(await _received_by(path, user, group)) is admitted


async def _received_by(path: Path, user: int, group: int) -> int:
    """Returns how many bytes somebody gets for a call."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-Ic",
        _CONNECT,
        str(path),
        str(user),
        str(group),
        request(1).hex(),
        stdout=subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return int(printed)
