"""What a policy makes of the stdio of real containers."""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from shimpy.core.container.container import ManagedContainer
from shimpy.core.container.process import Process
from shimpy.core.model import Policy, StdioPaths
from shimpy.core.runtime import Runc
from shimpy.core.runtime.bundle import Bundle
from shimpy.core.runtime.spec import ExecSpec
from shimpy.core.stdio.fifo import poll
from shimpy.core.stdio.uri import LogProgram
from shimpy.core.supervisor import Supervisor
from shimpy.errors import InternalError, InvalidArgumentError, NotFoundError
from tests.support.fifos import Fifo
from tests.support.leaks import alive
from tests.support.log_programs import COPY

pytestmark = pytest.mark.anyio

MakeFifo = Callable[[str], Fifo]
MakeProgram = Callable[..., LogProgram]

POLICY = Policy(
    exec_cgroups=False,
    relay_output=True,
    hold_stdin=True,
    drain_timeout=10,
    log_uris=True,
    namespace="k8s.io",
)
SOON = 30.0


@pytest.fixture
async def supervisor(new_id: Callable[[], str]) -> AsyncIterator[Supervisor]:
    # new_id judges what is left after this has ended.
    supervisor = Supervisor()
    yield supervisor
    for container in supervisor:
        if container.init is not None:
            await container.delete(container.init)
    await supervisor.aclose()


@pytest.fixture
def create(
    supervisor: Supervisor, bundle: Callable[..., str], new_id: Callable[[], str]
) -> Callable[..., Awaitable[ManagedContainer]]:
    """Creates containers; without a program of their own they sleep."""

    async def create(
        *args: str, stdin: str = "", stdout: str = "", container_id: str = ""
    ) -> ManagedContainer:
        return await supervisor.create(
            container_id or new_id(),
            Bundle.read(bundle(*(args or ("sleep", "1000")))),
            Runc("runc", None, supervisor.reaper),
            StdioPaths(stdin, stdout),
            policy=POLICY,
        )

    return create


async def start_exec(
    container: ManagedContainer, *args: str, stdin: object = "", stdout: object = "", policy: Policy = POLICY
) -> Process:
    """Registers the exec `one`, and starts it."""
    stdio = StdioPaths(stdin=str(stdin), stdout=str(stdout))
    spec = container.bundle.process_for(ExecSpec(args))
    process = await container.execs.add("one", spec, stdio, policy=policy)
    await container.execs.start(process)
    return process


async def soon(future: asyncio.Future[bytes]) -> bytes:
    return await asyncio.wait_for(future, SOON)


async def test_the_output_of_an_exec_ends_at_delete_and_its_children_live_on(
    create: Callable[..., Awaitable[ManagedContainer]], fifo: MakeFifo
) -> None:
    container = await create()
    out = fifo("out")
    process = await start_exec(container, "sh", "-c", "sleep 1000 & echo $!", stdout=out)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    await process.exit_published()
    assert not poll(reader) & select.POLLHUP

    assert await container.delete(process) == 0

    number = int(os.read(reader, 100))
    assert os.read(reader, 100) == b""
    os.close(reader)
    assert container.init is not None
    assert os.path.exists(f"/proc/{container.init.pid}/root/proc/{number}")


async def test_the_output_of_init_ends_with_the_container(
    create: Callable[..., Awaitable[ManagedContainer]], fifo: MakeFifo
) -> None:
    out = fifo("out")
    container = await create("sh", "-c", "sleep 1000 & echo hello", stdout=str(out))
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    await container.start()
    assert container.init is not None
    await container.init.exit_published()
    await container.delete(container.init)
    assert [os.read(reader, 100), os.read(reader, 100)] == [b"hello\n", b""]
    os.close(reader)


async def test_the_stdin_of_an_exec_is_held_until_it_is_closed(
    create: Callable[..., Awaitable[ManagedContainer]], fifo: MakeFifo
) -> None:
    container = await create()
    source, out = fifo("in"), fifo("out")
    reader = out.read()
    process = await start_exec(container, "cat", stdin=source, stdout=out)
    await source.write(b"one ")
    await source.write(b"two")
    assert process.exit_status is None
    process.io.close_stdin()
    assert await soon(reader) == b"one two"
    await process.exit_published()
    await container.delete(process)


async def test_an_owner_gets_the_pipes(
    create: Callable[..., Awaitable[ManagedContainer]], fifo: MakeFifo
) -> None:
    container = await create()
    out = fifo("out")
    reader = out.read()
    process = await start_exec(
        container,
        "stat",
        "-L",
        "-c",
        # The runtime gives them to the user of the process itself, but not to its group.
        "%g",
        "/proc/self/fd/1",
        stdout=out,
        policy=POLICY._replace(owner=(1000, 1001)),
    )
    assert await soon(reader) == b"1001\n"
    await process.exit_published()
    await container.delete(process)


async def test_a_log_program_lives_as_long_as_its_container(
    create: Callable[..., Awaitable[ManagedContainer]], tmp_path: Path, program: MakeProgram
) -> None:
    script = 'echo "$CONTAINER_NAMESPACE $CONTAINER_ID" >name; echo $$ >pid; ' + COPY
    container = await create("echo", "hello", stdout=f"binary://{program(script).path}")
    pid = int((tmp_path / "pid").read_text())
    assert (tmp_path / "name").read_text() == f"k8s.io {container.id}\n"
    await container.start()
    assert container.init is not None
    await container.init.exit_published()
    assert alive(pid)

    await container.delete(container.init)

    assert not alive(pid)
    assert (tmp_path / "out").read_text() == "hello\n"


async def test_a_log_program_of_an_exec_is_told_the_exec_id_and_ends_with_it(
    create: Callable[..., Awaitable[ManagedContainer]], tmp_path: Path, program: MakeProgram
) -> None:
    container = await create()
    script = 'echo "$CONTAINER_NAMESPACE $CONTAINER_ID" >name; echo $$ >pid; ' + COPY
    process = await start_exec(container, "echo", "hello", stdout=f"binary://{program(script).path}")
    assert (tmp_path / "name").read_text() == "k8s.io one\n"
    await process.exit_published()

    await container.delete(process)

    assert not alive(int((tmp_path / "pid").read_text()))
    assert (tmp_path / "out").read_text() == "hello\n"


def has_reader(fifo: Fifo) -> bool:
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        assert error.errno == errno.ENXIO
        return False
    return True


async def test_without_its_log_program_a_container_is_not_created(
    create: Callable[..., Awaitable[ManagedContainer]],
    fifo: MakeFifo,
    program: MakeProgram,
    new_id: Callable[[], str],
) -> None:
    source, container_id = fifo("in"), new_id()
    uri = f"binary-v2://{program('exit 1').path}"
    with pytest.raises(InternalError, match="ready"):
        await create(stdin=str(source), stdout=uri, container_id=container_id)
    assert not has_reader(source)
    await create(container_id=container_id)


async def test_without_its_log_program_an_exec_is_not_started(
    create: Callable[..., Awaitable[ManagedContainer]], fifo: MakeFifo
) -> None:
    container, source = await create(), fifo("in")
    with pytest.raises(NotFoundError, match="/no/such/program"):
        await start_exec(container, "true", stdin=source, stdout="binary:///no/such/program")
    process = container.get("one")
    assert process.pid == 0
    assert not has_reader(source)
    await container.delete(process)


ENDLESS = "echo $$ >pid; exec 5>&-; exec sleep 1000"
"""A log program that reads nothing, and has to be told to end."""


async def test_a_create_that_fails_ends_the_log_program(
    create: Callable[..., Awaitable[ManagedContainer]], tmp_path: Path, program: MakeProgram
) -> None:
    with pytest.raises(NotFoundError, match="no-such-program"):
        await create("no-such-program", stdout=f"binary://{program(ENDLESS).path}")
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_an_exec_that_fails_ends_the_log_program(
    create: Callable[..., Awaitable[ManagedContainer]], tmp_path: Path, program: MakeProgram
) -> None:
    container = await create()
    with pytest.raises(NotFoundError, match="no-such-program"):
        await start_exec(container, "no-such-program", stdout=f"binary://{program(ENDLESS).path}")
    assert not alive(int((tmp_path / "pid").read_text()))
    await container.delete(container.get("one"))


async def test_no_uri_is_read_where_the_policy_has_none(
    create: Callable[..., Awaitable[ManagedContainer]],
) -> None:
    container = await create()
    with pytest.raises(InvalidArgumentError, match="not absolute"):
        await start_exec(
            container, "true", stdout="binary:///bin/cat", policy=POLICY._replace(log_uris=False)
        )
