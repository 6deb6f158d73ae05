"""A /dev/shm that a container shares, or that somebody has filled: it has no part in any call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shimpy.api import PauseRequest, ResumeRequest, User
from tests.support.events import record
from tests.support.lives import KILLED, Life, lives
from tests.support.rounds import rounds
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

# Starts a program with a /dev/shm of its own, of so many files, which is also where TMPDIR is not set.
OWN = (
    'mount --make-rprivate / && mount -t tmpfs -o nr_inodes="$0" tmpfs /dev/shm && unset TMPDIR && exec "$@"'
)

Start = Callable[..., Server]


@pytest.fixture
async def with_files(
    start_server: Start, bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path, files: int
) -> AsyncIterator[Callable[..., Life]]:
    """Prepares containers of a shim whose /dev/shm is its own."""
    server = start_server(before=["unshare", "--mount", "sh", "-ec", OWN, str(files)])
    async with (
        record(server.stub()) as recorder,
        lives(server.stub(), recorder, bundle, new_id, tmp_path) as live,
    ):
        yield live


@pytest.mark.parametrize("files", [1])
async def test_without_room_for_a_single_file_there_every_call_works(with_files: Callable[..., Life]) -> None:
    life = with_files("sh", "-c", "! touch /shm/file 2>/dev/null && sleep 1000", change=share)
    await life.create()
    await life.start()
    assert (await life.run("touch", "/shm/file")).status != 0

    await life.shim.pause(PauseRequest())
    await life.shim.resume(ResumeRequest())

    assert await life.delete() == KILLED


def share(spec: dict[str, Any]) -> None:
    """Binds the shim's /dev/shm into the container, where its root may do all."""
    spec["mounts"].append(
        {"destination": "/shm", "type": "bind", "source": "/dev/shm", "options": ["bind", "rw"]}
    )


ATTACK = r"""
while :; do
    for each in /shm/*; do
        sed 's/"uid": *1000/"uid": 0/' "$each/process" >"$each/new" && mv "$each/new" "$each/process"
        mkfifo "$each/pid"
    done
done 2>/dev/null
"""


@pytest.mark.parametrize("files", [10_000])
async def test_a_container_that_shares_it_can_change_no_exec(with_files: Callable[..., Life]) -> None:
    """Neither whom a process runs as, nor what is read back; nor does anything wait for it."""
    life = with_files("sh", "-c", ATTACK, change=share)
    await life.create()
    await life.start()

    async with asyncio.timeout(300):
        for _ in range(rounds(10, 200)):
            assert (await life.run("id", "-u", user=User(uid=1000, gid=1000))).stdout == "1000\n"
