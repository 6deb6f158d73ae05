"""Whom a process's FIFOs and pipes belong to when a user namespace makes it another user."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shimpy.core.model import StdioPaths
from shimpy.core.stdio import Owner, StdioHub, open_stdio, owner_of
from shimpy.errors import NotFoundError
from tests.support.fifos import Fifo

pytestmark = pytest.mark.anyio

MakeFifo = Callable[[str], Fifo]

SOMEBODY = Owner(200_001, 200_002)


def spec(mappings: object, namespaces: object = ({"type": "user"},)) -> dict[str, Any]:
    return {"linux": {"namespaces": namespaces, "uidMappings": mappings, "gidMappings": mappings}}


def owned(path: object) -> tuple[int, int]:
    status = os.stat(str(path))
    return status.st_uid, status.st_gid


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        (None, Owner(100_000, 100_000)),
        ({}, Owner(100_000, 100_000)),
        ({"uid": 5, "gid": 9}, Owner(100_005, 100_009)),
        ({"uid": 10, "gid": 1009}, Owner(7000, 7999)),
        ({"uid": 1010}, None),
        ({"gid": 1010}, None),
        ({"uid": -1}, None),
        ({"uid": "root"}, None),
        ({"uid": True}, None),
    ],
)
async def test_the_bundle_says_who_a_user_is_outside(user: object, owner: Owner | None) -> None:
    mappings = [
        {"containerID": 0, "hostID": 100_000, "size": 10},
        {"containerID": 10, "hostID": 7000, "size": 1000},
    ]
    assert owner_of(spec(mappings), {"user": user}) == owner


@pytest.mark.parametrize(
    "mappings",
    [
        None,
        {},
        [],
        ["0 100000 65536"],
        [{"containerID": 0, "hostID": 1}],
        [{"containerID": 0, "hostID": 1.5, "size": 10}],
        [{"containerID": 0, "hostID": -1, "size": 10}],
        [{"containerID": 0, "hostID": 2**32 - 1, "size": 1}],
        [{"containerID": 0, "hostID": 1, "size": 2**64}],
    ],
)
async def test_a_mapping_that_cannot_be_is_the_runtimes_to_refuse(mappings: object) -> None:
    assert owner_of(spec(mappings), {}) is None


@pytest.mark.parametrize("namespaces", [None, [], [{"type": "pid"}]])
async def test_without_a_user_namespace_there_is_no_owner(namespaces: object) -> None:
    mappings = [{"containerID": 0, "hostID": 100_000, "size": 10}]
    assert owner_of(spec(mappings, namespaces), {}) is None
    assert owner_of({}, {}) is None


async def test_only_what_the_process_has_open_itself_is_given_to_it(
    hub: StdioHub, fifo: MakeFifo, tmp_path: Path
) -> None:
    source, out, file = fifo("in"), fifo("out"), tmp_path / "file"
    file.touch()
    mode = os.stat(out).st_mode
    io = open_stdio(hub, StdioPaths(stdin=str(source), stdout=str(out), stderr=str(file)), owner=SOMEBODY)
    pipe = os.fstat(io.fds[0])
    io.close()
    assert (pipe.st_uid, pipe.st_gid) == SOMEBODY
    assert owned(out) == SOMEBODY
    assert os.stat(out).st_mode == mode
    mine = os.geteuid(), os.getegid()
    assert owned(source) == owned(file) == mine


async def test_files_and_devices_keep_their_owner(hub: StdioHub, tmp_path: Path) -> None:
    file, device = tmp_path / "file", tmp_path / "device"
    file.touch()
    # Another /dev/null.
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    io = open_stdio(hub, StdioPaths(stdin=str(file), stdout=str(device), stderr=str(file)), owner=SOMEBODY)
    io.close()
    assert owned(file) == owned(device) == (os.geteuid(), os.getegid())


async def test_with_a_terminal_fifos_keep_their_owner(hub: StdioHub, fifo: MakeFifo) -> None:
    source, out = fifo("in"), fifo("out")
    io = open_stdio(
        hub, StdioPaths(terminal=True, stdin=str(source), stdout=str(out), stderr=""), owner=SOMEBODY
    )
    io.close()
    assert owned(source) == owned(out) == (os.geteuid(), os.getegid())


async def test_what_is_refused_changes_no_owner(hub: StdioHub, fifo: MakeFifo, tmp_path: Path) -> None:
    out = fifo("out")
    missing = str(tmp_path / "missing")
    with pytest.raises(NotFoundError):
        open_stdio(hub, StdioPaths(stdin="", stdout=str(out), stderr=missing), owner=SOMEBODY)
    assert owned(out) == (os.geteuid(), os.getegid())


async def test_a_file_system_that_knows_no_owners_is_no_obstacle(
    hub: StdioHub, fifo: MakeFifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _uid: int, _gid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    io = open_stdio(hub, StdioPaths(stdout=str(fifo("out"))), owner=SOMEBODY)
    assert os.write(io.fds[1], b"x") == 1
    io.close()
