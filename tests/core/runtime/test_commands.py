"""What a command of the runtime is given, what is made of what it says, and what is left of one: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from shimpy.core.reaper import Reaper
from shimpy.core.runtime import Runc
from shimpy.core.runtime.files import MAX_LOG
from shimpy.errors import FailedPreconditionError, InternalError, NotFoundError, ShimError
from shimpy.testing import Command, Fails, FakeRuntime, Hang, Signalled, error_line
from tests.core.runtime.conftest import Script
from tests.support.commanded import stdio
from tests.support.leaks import alive, children, descriptors, eventually, opened_since
from tests.support.rounds import rounds

COMMANDS: tuple[Command, ...] = ("create", "start", "exec", "pause", "resume", "delete", "state")

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeRuntime]:
    """A runtime that does nothing, and does it well, unless it is told otherwise."""
    with FakeRuntime(tmp_path, real=None) as fake:
        yield fake


async def give(
    runtime: Runc, command: str, output: Path | None = None, process: Mapping[str, object] | None = None
) -> object:
    """Gives one command."""
    with stdio(output) as fds:
        match command:
            case "create":
                return await runtime.create("a", "/bundle", fds)
            case "exec":
                return await runtime.exec("a", process or {}, fds)
            case "version":
                return await runtime.version()
            case _:
                call: Callable[[str], Awaitable[object]] = getattr(runtime, command)
                return await call("a")


# -- what it is given ----------------------------------------------------------------------------


@pytest.mark.parametrize("root", [None, "/some/root"])
async def test_each_command_is_one_command(fake: FakeRuntime, reaper: Reaper, root: str | None) -> None:
    runtime = Runc(fake.path, root, reaper)
    with stdio() as fds, contextlib.suppress(InternalError):
        await runtime.create("a", "/b c", fds)
    with stdio() as fds, contextlib.suppress(InternalError):
        await runtime.create("a", "/b c", fds, console_socket="/c", no_pivot=True)
    with stdio() as fds, contextlib.suppress(InternalError):
        await runtime.exec("a", {}, fds)
    with stdio() as fds, contextlib.suppress(InternalError):
        await runtime.exec("a", {}, fds, console_socket="/c", extra=["--x", "y"])
    await runtime.start("a")
    await runtime.pause("a")
    await runtime.resume("a")
    await runtime.delete("a")
    await runtime.delete("a", force=True)
    await runtime.version()

    ours = re.compile(rf"/proc/{os.getpid()}/fd/[0-9]+")
    told = [[ours.sub("FD", word) for word in call.argv] for call in fake.calls]
    before = [*([] if root is None else ["--root", root]), "--log", "FD", "--log-format", "json"]
    pid, process = "--pid-file=FD/pid", "--process=FD"
    assert told == [
        [*before, "create", "--bundle=/b c", pid, "a"],
        [*before, "create", "--bundle=/b c", "--no-pivot", pid, "--console-socket=/c", "a"],
        [*before, "exec", "--detach", process, pid, "a"],
        [*before, "exec", "--detach", process, pid, "--x", "y", "--console-socket=/c", "a"],
        *([*before, command, "a"] for command in ("start", "pause", "resume", "delete")),
        [*before, "delete", "--force", "a"],
        [*before, "--version"],
    ]


@pytest.mark.parametrize("command", ["create", "start", "exec", "delete", "state"])
async def test_nothing_that_was_meant_for_us_is_in_its_environment(
    script: Script, reaper: Reaper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3); runc would hand them on."""
    ours = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"]
    for name in ours:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HTTP_PROXY", "x\ny=z")
    runtime = Runc(script(f"env -0 >'{tmp_path}/told'"), None, reaper)

    with contextlib.suppress(InternalError):
        await give(runtime, command)

    told = set((tmp_path / "told").read_text().split("\0"))
    assert "HTTP_PROXY=x\ny=z" in told
    assert f"PATH={os.environ['PATH']}" in told
    assert [entry for entry in told if entry.partition("=")[0] in ours] == []
    assert os.environ["NOTIFY_SOCKET"] == "1"


@pytest.mark.parametrize("own", [0, 0o077, 0o777])
@pytest.mark.parametrize(
    ("command", "user", "expected"),
    [
        ("create", None, "0022"),
        ("start", None, "0022"),
        ("state", None, "0022"),
        ("exec", None, "0022"),
        ("exec", {}, "0022"),
        ("exec", {"umask": None}, "0022"),
        ("exec", {"umask": 0}, "0000"),
        ("exec", {"umask": 0o27}, "0027"),
        ("exec", {"umask": 0o777}, "0777"),
        ("exec", {"umask": 0o7777 + 1}, "0000"),
    ],
)
async def test_its_umask_is_the_usual_one_or_that_of_the_process(
    script: Script,
    reaper: Reaper,
    tmp_path: Path,
    command: str,
    user: dict[str, int] | None,
    expected: str,
    own: int,
) -> None:
    (tmp_path / "told").touch()
    runtime = Runc(script(f"umask >'{tmp_path}/told'"), None, reaper)
    process = {} if user is None else {"user": user}

    before = os.umask(own)
    try:
        with contextlib.suppress(InternalError):
            await give(runtime, command, process=process)
    finally:
        assert os.umask(before) == own

    assert (tmp_path / "told").read_text() == f"{expected}\n"


async def test_only_create_and_exec_have_the_descriptors_of_the_process(
    script: Script, reaper: Reaper, tmp_path: Path
) -> None:
    runtime = Runc(script('echo out; echo err >&2; [ -z "$(cat)" ]'), None, reaper)
    for command in ("create", "exec"):
        with pytest.raises(InternalError, match="no pid file"):
            await give(runtime, command, tmp_path / command)
        assert (tmp_path / command).read_text() == "out\nerr\n"
    for command in ("start", "pause", "resume", "delete"):
        await give(runtime, command, tmp_path / command)
        assert (tmp_path / command).read_text() == ""
    assert await runtime.version() == "out\n"


# -- what it says --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["create", "exec", "start", "delete", "state", "version"])
async def test_of_a_command_that_fails_the_last_error_is_told(
    script: Script, reaper: Reaper, command: str
) -> None:
    name = "--version" if command == "version" else command
    path = script('echo \'{"level":"error","msg":"/x does not exist"}\' >"$log"; exit 3')

    with pytest.raises(NotFoundError) as raised:
        await give(Runc(path, None, reaper), command)

    assert str(raised.value) == f"{path} {name} failed with exit status 3: /x does not exist"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("create", NotFoundError),
        *((command, FailedPreconditionError) for command in COMMANDS if command != "create"),
    ],
)
async def test_a_program_that_is_gone_is_not_taken_for_a_container_that_is(
    script: Script, reaper: Reaper, command: Command, error: type[ShimError]
) -> None:
    path = script("")
    runtime = Runc(path, None, reaper)
    os.unlink(path)

    with pytest.raises(error, match=f"^{path} cannot be started: No such file or directory$"):
        await give(runtime, command)


async def test_what_else_it_logs_or_prints_is_no_fault(script: Script, reaper: Reaper) -> None:
    path = script('echo \'{"level":"error","msg":"never mind"}\' >"$log"; echo no >&2')

    await give(Runc(path, None, reaper), "start")


async def test_a_state_is_what_it_prints(script: Script, reaper: Reaper) -> None:
    path = script('echo \'{"status": "created", "pid": 7, "x": ["ä"]}\'')

    assert await Runc(path, None, reaper).state("a") == {"status": "created", "pid": 7, "x": ["ä"]}


@pytest.mark.parametrize(
    "printed",
    [
        *("", "[]", "null", '"created"', '{"status": "created"', '{"status": "created"} x', "\\0377"),
        f"{{\"x\": \"'; head -c {MAX_LOG} /dev/zero | tr '\\0' x; echo '\"}}",
        "'; head -c 200000 /dev/zero | tr '\\0' '['; echo '",
    ],
    ids=lambda printed: printed[:30],
)
async def test_what_is_no_state_is_refused(script: Script, reaper: Reaper, printed: str) -> None:
    path = script(f"echo '{printed}'")

    with pytest.raises(InternalError, match=f"^{path} state returned no state for container a$"):
        await Runc(path, None, reaper).state("a")


async def test_a_version_that_is_no_text_can_be_read_all_the_same(script: Script, reaper: Reaper) -> None:
    assert (
        await Runc(script("printf 'oci \\377 1'"), None, reaper).version()
        == "oci \N{REPLACEMENT CHARACTER} 1"
    )


# -- what is left of it --------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "fault",
    [None, Fails(log=error_line("fire")), Signalled(signal.SIGKILL)],
    ids=["well", "badly", "killed"],
)
async def test_however_a_command_ends_its_files_go(
    fake: FakeRuntime, reaper: Reaper, command: Command, fault: Fails | Signalled | None
) -> None:
    if fault is not None:
        fake.fault(command, fault)
    before = descriptors()

    with contextlib.suppress(ShimError):
        await give(Runc(fake.path, None, reaper), command)

    assert len(fake.calls) == 1
    assert opened_since(before) == []


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_cancelled_command_is_gone_with_all_its_group_when_the_call_ends(
    fake: FakeRuntime, reaper: Reaper, command: Command
) -> None:
    fake.fault(command, Hang(children=2, ignore_sigterm=True))
    before = descriptors()
    call = asyncio.create_task(give(Runc(fake.path, None, reaper), command))
    await eventually(lambda: fake.calls and len(in_group(fake.calls[0].pid)) == 3)
    group = in_group(fake.calls[0].pid)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert not alive(fake.calls[0].pid)
    await eventually(lambda: not any(map(alive, group)) and children() == {})
    await eventually(lambda: opened_since(before) == [])


def in_group(group: int) -> list[int]:
    """Returns the processes of a process group."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getpgid(int(name)) == group:
                    found.append(int(name))
    return found


@pytest.mark.parametrize("command", ["create", "start", "state"])
async def test_a_command_that_is_cancelled_at_any_step_leaves_nothing(
    fake: FakeRuntime, reaper: Reaper, command: Command
) -> None:
    """Before it is started, while it is, and after."""
    fake.fault(command, Hang(children=1))
    runtime = Runc(fake.path, None, reaper)
    before = descriptors()
    for steps in range(rounds(10, 200)):
        call = asyncio.create_task(give(runtime, command))
        for _ in range(steps):
            await asyncio.sleep(0)

        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        await eventually(lambda: children() == {})
    await eventually(lambda: opened_since(before) == [])


async def test_a_command_beside_one_that_is_cancelled_goes_on(fake: FakeRuntime, reaper: Reaper) -> None:
    runtime = Runc(fake.path, None, reaper)
    fake.fault("pause", Hang())
    cancelled, other = (asyncio.create_task(give(runtime, "pause")) for _ in range(2))
    await eventually(lambda: len(fake.calls) == 2)

    cancelled.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await cancelled
    assert not other.done()
    fake.release()

    await other
