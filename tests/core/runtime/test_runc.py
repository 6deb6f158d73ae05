"""The commands of the real runc: what each does, what it tells, and which error a refusal of it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runc
from shimpy.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ShimError,
)
from tests.support.commanded import Command, Commanded, stdio
from tests.support.leaks import alive
from tests.support.lives import KILLED

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

SLEEP = ("sleep", "1000")


async def running(commanded: Command, *args: str, **options: Any) -> Commanded:
    container = commanded(*(args or SLEEP), **options)
    await container.create()
    await container.start()
    return container


async def refused(call: Awaitable[object], error: type[ShimError], *words: str) -> str:
    """Returns the message with which a call is refused, in which these words are."""
    with pytest.raises(ShimError) as raised:
        await call
    assert type(raised.value) is error, raised.value
    message = str(raised.value)
    assert [word for word in words if word not in message] == [], message
    assert message.isprintable()
    return message


# -- what each command does ----------------------------------------------------------------------


async def test_create_tells_the_pid_of_an_init_that_waits(commanded: Command, runc: Runc) -> None:
    container = commanded("sh", "-c", "echo started")
    pid = await container.create()

    state = await runc.state(container.id)

    assert (state["status"], state["pid"], state["bundle"]) == ("created", pid, container.bundle)
    assert alive(pid)
    await runc.delete(container.id, force=True)
    assert await container.exit_of(pid) == KILLED


async def test_start_lets_it_run_with_its_own_output(commanded: Command, runc: Runc, tmp_path: Path) -> None:
    container = await running(commanded, "sh", "-c", "echo hello; echo you >&2; exit 7")

    assert await container.exit_of(container.pid) == 7
    assert (await runc.state(container.id))["status"] == "stopped"
    assert (tmp_path / "output").read_text() == "hello\nyou\n"
    await runc.delete(container.id)


async def test_exec_tells_the_pid_of_one_more_process_at_once(commanded: Command, runc: Runc) -> None:
    container = await running(commanded)
    pid = await container.exec(*SLEEP)

    assert alive(pid)
    assert Path(f"/proc/{pid}/root").stat().st_ino == Path(f"/proc/{container.pid}/root").stat().st_ino
    assert await container.kill() == KILLED
    assert await container.exit_of(pid) == KILLED
    await runc.delete(container.id)


async def test_exec_is_what_its_process_object_says(commanded: Command, runc: Runc, tmp_path: Path) -> None:
    container = await running(commanded)
    pid = await container.exec(
        *("sh", "-c", "id -u; pwd; echo $A; umask; exit 3"),
        user={"uid": 5, "gid": 6, "umask": 0o027},
        cwd="/etc",
        env=["PATH=/bin", "A=ä"],
    )

    assert await container.exit_of(pid) == 3
    assert (tmp_path / "output").read_text() == "5\n/etc\nä\n0027\n"
    await container.kill()
    await runc.delete(container.id)


async def test_pause_freezes_and_resume_thaws(commanded: Command, runc: Runc) -> None:
    container = await running(commanded)

    await runc.pause(container.id)
    paused = (await runc.state(container.id))["status"]
    await runc.resume(container.id)

    assert (paused, (await runc.state(container.id))["status"]) == ("paused", "running")
    await container.kill()
    await runc.delete(container.id)


async def test_delete_removes_all_that_it_holds_of_a_container(commanded: Command, runc: Runc) -> None:
    container = await running(commanded, "true")
    await container.exit_of(container.pid)
    directory = runc.state_directory(container.id)
    assert directory is not None
    assert os.path.isdir(directory)

    await runc.delete(container.id)

    assert not os.path.exists(directory)


async def test_delete_by_force_kills_it_first(commanded: Command, runc: Runc) -> None:
    container = await running(commanded)

    await runc.delete(container.id, force=True)

    assert await container.exit_of(container.pid) == KILLED


async def test_version_is_what_it_prints(runc: Runc) -> None:
    assert (await runc.version()).startswith("runc version ")


async def test_many_commands_run_at_the_same_time(commanded: Command, runc: Runc) -> None:
    """Each has files of its own."""
    container = await running(commanded)

    pids = await asyncio.gather(*(container.exec("sh", "-c", f"exit {code}") for code in range(10)))

    assert [await container.exit_of(pid) for pid in pids] == list(range(10))
    await container.kill()
    await runc.delete(container.id)


async def test_a_root_of_its_own_is_for_every_command(
    commanded: Command, reaper: Reaper, runc: Runc, tmp_path: Path
) -> None:
    apart = Runc("runc", str(tmp_path / "root"), reaper)
    container = await running(commanded, runtime=apart)
    assert os.listdir(tmp_path / "root") == [container.id]
    await refused(runc.state(container.id), NotFoundError)

    await apart.pause(container.id)
    await apart.resume(container.id)
    await container.exec("true")
    assert (await apart.state(container.id))["status"] == "running"
    await container.kill()
    await apart.delete(container.id)

    assert os.listdir(tmp_path / "root") == []


# -- what it refuses -----------------------------------------------------------------------------


PROGRAMS = pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        ("no-such-program", NotFoundError, "executable file not found"),
        ("/no/such/program", NotFoundError, "no such file or directory"),
        ("/etc/passwd/program", NotFoundError, "not a directory"),
        ("/bin/not-executable", PermissionDeniedError, "permission denied"),
        ("/bin", PermissionDeniedError, "/bin"),
        ("/" + "x" * 256, InvalidArgumentError, "file name too long"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)


@PROGRAMS
async def test_create_of_a_program_that_cannot_be_run(
    commanded: Command, program: str, error: type[ShimError], words: str
) -> None:
    await refused(commanded(program).create(), error, "runc create failed", words)


@PROGRAMS
async def test_exec_of_a_program_that_cannot_be_run(
    commanded: Command, runc: Runc, program: str, error: type[ShimError], words: str
) -> None:
    container = await running(commanded)

    await refused(container.exec(program), error, "runc exec failed", words)

    await container.kill()
    await runc.delete(container.id)


async def test_exec_of_what_is_no_process(commanded: Command, runc: Runc) -> None:
    container = await running(commanded)

    await refused(container.exec("true", cwd="/missing"), NotFoundError, "/missing")
    await refused(container.exec("true", cwd="/etc/passwd"), NotFoundError, "/etc/passwd")
    await refused(container.exec(), InternalError, "args must not be empty")
    limit = {"type": "RLIMIT_OF_NOTHING", "hard": 1, "soft": 1}
    await refused(container.exec("true", rlimits=[limit]), InternalError, "RLIMIT_OF_NOTHING")

    await container.kill()
    await runc.delete(container.id)


async def test_create_of_a_bundle_that_is_not_there(runc: Runc, new_id: Callable[[], str]) -> None:
    with stdio() as fds:
        await refused(runc.create(new_id(), "/no/such/bundle", fds), NotFoundError, "/no/such/bundle")
        await refused(runc.create(new_id(), "/etc/passwd", fds), NotFoundError, "/etc/passwd")


async def test_create_of_an_id_that_there_is_leaves_the_other_alone(commanded: Command, runc: Runc) -> None:
    container = await running(commanded)
    pid = container.pid

    await refused(container.create(), AlreadyExistsError, "already exists")

    state = await runc.state(container.id)
    assert (state["status"], state["pid"]) == ("running", pid)
    await container.kill()
    await runc.delete(container.id)


@pytest.mark.parametrize("command", ["start", "pause", "resume", "delete", "state", "exec"])
async def test_a_container_that_is_not_there(
    commanded: Command, runc: Runc, new_id: Callable[[], str], command: str
) -> None:
    call = commanded("true").exec("true") if command == "exec" else getattr(runc, command)(new_id())

    await refused(call, NotFoundError, f"runc {command} failed", "does not exist")


async def test_what_a_state_forbids(commanded: Command, runc: Runc) -> None:
    """Nothing that the shim asks for, which knows the state; but the state may change under its hands."""
    container = await running(commanded)

    await refused(container.start(), FailedPreconditionError, "running")
    await refused(runc.resume(container.id), FailedPreconditionError, "not paused")
    await runc.pause(container.id)
    await refused(container.exec("true"), FailedPreconditionError, "paused")
    await refused(runc.pause(container.id), FailedPreconditionError, "not running")
    await runc.resume(container.id)
    await container.kill()
    await refused(container.start(), FailedPreconditionError, "stopped")
    await refused(runc.pause(container.id), FailedPreconditionError, "not running")
    await refused(runc.resume(container.id), FailedPreconditionError, "not paused")
    await refused(container.exec("true"), FailedPreconditionError, "stopped")

    await runc.delete(container.id)


async def test_a_runtime_that_is_gone_since_it_was_found(
    reaper: Reaper, script: Callable[[str], str]
) -> None:
    path = script("exit 0")
    runtime = Runc(path, None, reaper)
    await runtime.start("a")

    os.chmod(path, 0o644)
    await refused(runtime.start("a"), PermissionDeniedError, f"{path} cannot be started")
    os.unlink(path)
    await refused(runtime.start("a"), FailedPreconditionError, f"{path} cannot be started")


async def test_create_where_the_current_directory_is_gone(
    commanded: Command, reaper: Reaper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may remove the directory that a server was started in."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    runtime = Runc("runc", None, reaper)
    container = commanded(*SLEEP, runtime=runtime)

    pid = await container.create()

    assert alive(pid)
    await runtime.delete(container.id, force=True)
    assert await container.exit_of(pid) == KILLED
