"""Containers in a user namespace: whom their output belongs to."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shimpy.api import User
from tests.support.bundles import Spec
from tests.support.fifos import Fifo
from tests.support.lives import KILLED, Life

pytestmark = pytest.mark.anyio

MakeFifo = Callable[[str], Fifo]

# What the container's root is outside.
HOST_ID = 200_000


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest, bundle: Callable[..., str], new_id: Callable[[], str]) -> str:
    """A runtime, if it runs containers on this machine; crun does not where cgroups v1 and v2 are mixed."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}")
    tried = subprocess.run(
        [name, "run", "--bundle", bundle("true"), new_id()], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"{name} runs no container here: {tried.stderr.strip()}")
    return name


@pytest.fixture
def prepare(live: Callable[..., Life], rootfs: Path) -> Callable[..., Life]:
    """Prepares containers in a user namespace of their own."""

    def prepare(*args: str, **options: Any) -> Life:
        def change(spec: Spec) -> None:
            spec["root"]["path"] = str(rootfs)
            spec["linux"]["namespaces"].append({"type": "user"})
            mapping = {"containerID": 0, "hostID": HOST_ID, "size": 65536}
            spec["linux"] |= {"uidMappings": [mapping], "gidMappings": [mapping]}

        return live(*args, change=change, **options)

    return prepare


@pytest.mark.parametrize("user", [(0, 0), (1000, 100)])
@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_a_process_opens_its_streams_by_name(
    prepare: Callable[..., Life], fifo: MakeFifo, runtime: str, whose: str, user: tuple[int, int]
) -> None:
    output, errors, source = fifo("output"), fifo("errors"), fifo("source")
    for each in (output, errors, source):
        os.chmod(each, 0o600)
    reading = output.read(), errors.read()
    writing = source.write(b"input\n")
    program = ("sh", "-c", "id -u >/dev/stdout; echo error >/dev/stderr; cat /dev/stdin >/dev/stdout")
    fields = {"stdin": str(source), "stdout": str(output), "stderr": str(errors)}
    if whose == "init":
        life = prepare(*program, user=user)
        await life.create(runtime=runtime, **fields)
        await life.start()
        pid = life.pid
    else:
        life = prepare("sleep", "1000")
        await life.create(runtime=runtime)
        await life.start()
        pid = await life.exec(*program, user=User(uid=user[0], gid=user[1]), **fields)
    async with asyncio.timeout(20):
        assert [await each for each in reading] == [b"%d\ninput\n" % user[0], b"error\n"]
        assert await writing == 6
    assert await life.exit_of(pid) == 0
    owners = {(os.stat(each).st_uid, os.stat(each).st_gid) for each in (output, errors)}
    assert owners == {(HOST_ID + user[0], HOST_ID + user[1])}
    assert os.stat(source).st_uid == os.geteuid()


@pytest.mark.parametrize("whose", ["init", "exec"])
async def test_a_process_opens_its_terminal_by_name(
    prepare: Callable[..., Life], fifo: MakeFifo, runtime: str, whose: str
) -> None:
    output = fifo("output")
    os.chmod(output, 0o600)
    reading = output.read()
    program = ("sh", "-c", "echo out >/dev/stdout; echo error >/dev/stderr; echo tty >/dev/tty")
    if whose == "init":
        life = prepare(*program, terminal=True)
        await life.create(runtime=runtime, terminal=True, stdout=str(output))
        await life.start()
        pid = life.pid
    else:
        life = prepare("sleep", "1000")
        await life.create(runtime=runtime)
        await life.start()
        pid = await life.exec(*program, terminal=True, stdout=str(output))
    async with asyncio.timeout(20):
        assert await reading == b"out\r\nerror\r\ntty\r\n"
    assert await life.exit_of(pid) == 0
    assert os.stat(output).st_uid == os.geteuid()


async def test_a_container_without_one_leaves_fifos_to_the_runtime(
    live: Callable[..., Life], fifo: MakeFifo
) -> None:
    output = fifo("output")
    life = live("sleep", "1000")
    await life.create(stdout=str(output))
    assert (os.stat(output).st_uid, os.stat(output).st_gid) == (os.geteuid(), os.getegid())
    assert await life.delete() == KILLED
