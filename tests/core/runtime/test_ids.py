"""One id, one container: of two who want it one wins, and who loses touches nothing of the other's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from shimpy.api import CreateRequest, DeleteRequest, ExecRequest, ShimStub, StartRequest
from shimpy.core.runtime import Runtime
from shimpy.core.runtime.ids import ContainerId
from shimpy.errors import AlreadyExistsError
from shimpy.testing import Fails, FakeRuntime, Hang, error_line
from tests.support import containers
from tests.support.inprocess import serve
from tests.support.leaks import children, eventually
from tests.support.lives import KILLED, refused
from tests.support.rounds import rounds

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

FIRE = error_line("the pool is on fire")


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    with FakeRuntime() as fake:
        yield fake


@pytest.fixture(params=["runc", "a wrapper"])
def runtime(request: pytest.FixtureRequest, fake: FakeRuntime, tmp_path: Path) -> str:
    """A runtime, by whose name is known where it keeps its state, and one of which it is not."""
    if request.param == "runc":
        return fake.path
    wrapper = tmp_path / "wrapper"
    wrapper.symlink_to(fake.path)
    return str(wrapper)


# -- who has an id -------------------------------------------------------------------------------


class At:
    """Stands for a runtime that keeps its state in a directory, or nobody knows where."""

    def __init__(self, root: str | None) -> None:
        self._root = root

    def state_directory(self, container_id: str) -> str | None:
        return None if self._root is None else f"{self._root}/{container_id}"


def taken(root: object, container_id: str = "a") -> ContainerId:
    at = At(None if root is None else str(root))
    return ContainerId(cast("Runtime", at), container_id)


async def test_an_id_is_taken_until_it_is_released(tmp_path: Path) -> None:
    for _ in range(2):
        first = taken(tmp_path)
        with pytest.raises(AlreadyExistsError, match=r"^id: .* a already$"):
            taken(tmp_path)
        first.release()
        first.release()


async def test_another_id_or_another_directory_of_state_is_free(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for root, container_id in ((tmp_path, "a"), (tmp_path, "b"), (tmp_path / "other", "a")):
            stack.callback(taken(root, container_id).release)


async def test_one_directory_may_have_two_names(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to("root")
    first = taken(tmp_path / "root")
    with pytest.raises(AlreadyExistsError):
        taken(tmp_path / "link")
    first.release()


@pytest.mark.parametrize("unknown", [0, 1, 2])
async def test_a_directory_that_is_not_known_may_be_any(unknown: int) -> None:
    roots = [None if unknown != 1 else "/root", None if unknown != 0 else "/root"]
    first = taken(roots[0])
    with pytest.raises(AlreadyExistsError):
        taken(roots[1])
    first.release()


LOCKER = """
import sys
from shimpy.core.runtime.ids import ContainerId
class At:
    def state_directory(container_id):
        return f"{sys.argv[1]}/{container_id}" if sys.argv[1] else None
taken = ContainerId(At, sys.argv[2])
print(flush=True)
sys.stdin.readline()
taken.created()
print(flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def another_process(root: str, container_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has begun to create a container of an id."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, root, container_id], stdin=pipe, stdout=pipe
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("end", ["created", "killed"])
async def test_among_processes_it_is_taken_while_the_container_is_being_created(
    tmp_path: Path, end: str
) -> None:
    with another_process(str(tmp_path), "a") as process:
        for _ in range(2):
            with pytest.raises(AlreadyExistsError, match=r"^id: another process is creating a container a$"):
                taken(tmp_path)
        taken(tmp_path, "b").release()
        taken(tmp_path / "other").release()
        if end == "killed":
            process.kill()
            process.wait()
        else:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"\n"

        taken(tmp_path).release()


async def test_among_processes_a_directory_that_is_not_known_is_taken_for_that_of_runc(
    new_id: Callable[[], str],
) -> None:
    container = new_id()
    with another_process("", container), pytest.raises(AlreadyExistsError):
        taken("/run/runc", container)


async def test_where_no_lock_can_be_had_an_id_is_taken_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shimpy.core.tempdirs.base", lambda: str(tmp_path / "missing" / "base"))
    first = taken(tmp_path)
    with pytest.raises(AlreadyExistsError):
        taken(tmp_path)
    first.release()


# -- two at once ---------------------------------------------------------------------------------


async def create(shim: ShimStub, container: str, bundle: str, runtime: str, **fields: Any) -> int:
    request = CreateRequest(id=container, bundle=bundle, runtime=runtime, **fields)
    return (await shim.create(request)).pid


async def test_of_two_creates_at_once_one_wins_and_its_container_works(
    bundle: Callable[..., str], new_id: Callable[[], str], runtime: str
) -> None:
    path = bundle("sleep", "1000")
    async with serve() as one, serve() as other:
        for _ in range(rounds(5, 200)):
            container = new_id()
            calls = [create(shim, container, path, runtime) for shim in (one, other)]
            pid, error = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(pid, int), pid
            assert isinstance(error, GRPCError)
            assert error.status is Status.ALREADY_EXISTS

            await one.start(StartRequest())
            added = await one.exec(ExecRequest(args=["true"]))
            await one.delete(DeleteRequest(pid=added.pid))
            assert (await one.delete(DeleteRequest(pid=pid))).exit_status == KILLED


async def test_who_comes_second_is_told_at_once(
    bundle: Callable[..., str], new_id: Callable[[], str], runtime: str, fake: FakeRuntime
) -> None:
    fake.fault("create", Hang())
    container, path = new_id(), bundle("sleep", "1000")
    async with serve() as one, serve() as other:
        first = asyncio.ensure_future(create(one, container, path, runtime))
        await eventually(lambda: fake.calls)

        await refused(create(other, container, path, runtime), Status.ALREADY_EXISTS, container)

        assert [call.command for call in fake.calls] == ["create"]
        fake.release()
        assert (await one.delete(DeleteRequest(pid=await first))).exit_status == KILLED


@pytest.mark.parametrize("how", ["refused", "failed", "cancelled", "deleted", "closed"])
async def test_an_id_can_be_used_by_another_once_nothing_has_it(
    bundle: Callable[..., str], new_id: Callable[[], str], fake: FakeRuntime, how: str
) -> None:
    container, path = new_id(), bundle("sleep", "1000")
    async with serve() as other:
        async with serve() as one:
            match how:
                case "refused":
                    await refused(
                        create(one, container, path, fake.path, stdout="/missing"), Status.NOT_FOUND
                    )
                case "failed":
                    fake.fault("create", Fails(log=FIRE), times=1)
                    await refused(create(one, container, path, fake.path), Status.INTERNAL)
                case "cancelled":
                    fake.fault("create", Hang(), times=1)
                    call = asyncio.ensure_future(create(one, container, path, fake.path))
                    await eventually(lambda: fake.calls)
                    call.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await call
                    await eventually(lambda: [call.command for call in fake.calls] == ["create", "state"])
                case "deleted":
                    await one.delete(DeleteRequest(pid=await create(one, container, path, fake.path)))
                case _:
                    await create(one, container, path, fake.path)
        if how == "closed":
            subprocess.run(["runc", "delete", "--force", container], check=True)

        pid = await create(other, container, path, fake.path)
        await other.delete(DeleteRequest(pid=pid))
        await eventually(lambda: children() == {})


# -- somebody else's -----------------------------------------------------------------------------


@pytest.fixture
async def theirs(bundle: Callable[..., str], new_id: Callable[[], str]) -> AsyncIterator[str]:
    """The id of a container that somebody runs who is not of this process."""
    container = new_id()
    # While no shim is here its init becomes the child of the machine's own.
    subprocess.run(
        ["runc", "create", "--bundle", bundle("sleep", "1000"), container],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield container
    containers.remove(container)


def state_of(container: str) -> dict[str, Any]:
    done = subprocess.run(["runc", "state", container], check=True, capture_output=True)
    state: dict[str, Any] = json.loads(done.stdout)
    return state


@pytest.mark.parametrize("status", ["created", "stopped"])
@pytest.mark.parametrize("fault", [Fails(log=FIRE), None], ids=["fails", "says that it exists"])
async def test_a_create_that_fails_leaves_somebody_elses_container_alone(
    fake: FakeRuntime,
    theirs: str,
    tmp_path: Path,
    bundle: Callable[..., str],
    status: str,
    fault: Fails | None,
) -> None:
    """Of a runtime of which it is not known what it has already."""
    wrapper = tmp_path / "wrapper"
    wrapper.symlink_to(fake.path)
    if status == "stopped":
        os.kill(state_of(theirs)["pid"], signal.SIGKILL)
        await eventually(lambda: state_of(theirs)["status"] == "stopped")
    before = state_of(theirs)
    if fault is not None:
        fake.fault("create", fault)

    async with serve() as shim:
        for path in (bundle("sleep", "1000"), before["bundle"]):
            with pytest.raises(GRPCError) as raised:
                await create(shim, theirs, path, str(wrapper))
            expected = Status.INTERNAL if fault else Status.ALREADY_EXISTS
            assert raised.value.status is expected

    assert state_of(theirs) == before
    commands = [call.command for call in fake.calls]
    assert commands == (["create", "state"] if fault else ["create"]) * 2


async def test_a_create_that_is_killed_at_some_point_leaves_its_id_free(
    fake: FakeRuntime, runtime: str, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    """Under whatever name, so also where nobody knows in which directory its state is."""
    path, after = bundle("sleep", "1000"), 0.0
    async with serve() as shim:
        while True:
            container, known = new_id(), len(fake.calls)
            attempt = asyncio.ensure_future(create(shim, container, path, runtime))
            await eventually(lambda known=known: len(fake.calls) > known)  # type: ignore[misc]  # no lambda type
            await asyncio.wait([attempt], timeout=after)
            if attempt.done():
                await shim.delete(DeleteRequest(pid=await attempt))
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(fake.calls[known].pid, signal.SIGKILL)
            with contextlib.suppress(GRPCError):
                await shim.delete(DeleteRequest(pid=await attempt))

            pid = await create(shim, container, path, runtime)
            assert (await shim.delete(DeleteRequest(pid=pid))).exit_status == KILLED
            after += 0.002
