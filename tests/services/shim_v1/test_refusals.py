"""Every refusal of the contract: its status, and the word in its message that helps."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status

from shimpy.api import (
    CreateRequest,
    DeleteRequest,
    ExecRequest,
    PauseRequest,
    PtyRequest,
    ResumeRequest,
    Rlimit,
    ShimStub,
    StartRequest,
    StateRequest,
    StateResponse,
    User,
)
from shimpy.core.reaper import Reaper
from shimpy.errors import FailedPreconditionError
from shimpy.services.shim_v1 import Shim
from shimpy.testing import Fails, FakeRuntime, error_line
from tests.support import containers
from tests.support.fifos import Fifo
from tests.support.forks import is_subreaper
from tests.support.kinds import CREATED, PAUSED, RUNNING, STOPPED
from tests.support.lives import KILLED, Life, refused

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

Prepare = Callable[..., Life]
SLEEP = ("sleep", "1000")
INVALID = Status.INVALID_ARGUMENT
MISSING = Status.NOT_FOUND
EXISTS = Status.ALREADY_EXISTS
STATE = Status.FAILED_PRECONDITION


async def running(live: Prepare, **options: Any) -> Life:
    life = live(*SLEEP, **options)
    await life.create()
    await life.start()
    return life


# -- Create --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "container_id",
    ["", ".", "..", "-a", "--root", "a/b", "../a", "a b", "a\n", "a\0b", "ä", "a" * 1025, "a:b", "$(id)"],
)
async def test_create_with_a_bad_id(shim: ShimStub, bundle: Callable[..., str], container_id: str) -> None:
    await refused(shim.create(CreateRequest(id=container_id, bundle=bundle("true"))), INVALID, "id")


@pytest.mark.parametrize("shape", ["a_B-1+2.c", "..a", "_", "+", "a" * 200])
async def test_create_with_an_unusual_id(live: Prepare, shape: str) -> None:
    life = live("true")
    life.id = shape[: 200 - len(life.id)] + life.id if shape[0] in ".+a_" else shape + life.id
    await life.create()
    assert await life.delete() == KILLED


async def test_create_with_an_id_that_the_runtime_cannot_have(
    shim: ShimStub, bundle: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """1,024 bytes are an id to the contract; a file's name holds 255, so it is the kernel that refuses.

    Nothing can be left of it, nor is anything said to be.
    """
    message = await refused(shim.create(CreateRequest(id="a" * 1024, bundle=bundle("true"))), INVALID)
    assert "name too long" in message
    assert caplog.messages == []


async def test_create_with_a_runtime_that_can_do_nothing(
    shim: ShimStub, bundle: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has made nothing, so nothing is said to be left."""
    program = tmp_path / "runtime"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    for path, words in ((str(program), "cannot be started"), ("/bin/false", "exit status 1")):
        request = CreateRequest(id="a", bundle=bundle("true"), runtime=path)
        await refused(shim.create(request), Status.INTERNAL, words)
    assert caplog.messages == []


async def test_what_a_failed_create_has_left_and_cannot_be_removed_is_in_the_log(
    live: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    life = live(*SLEEP)
    with FakeRuntime() as fake:
        fake.fault("create", Fails(after=True))
        fake.fault("state", Fails(log=error_line("out of order")))
        await refused(life.create(runtime=fake.path), Status.INTERNAL)
    assert f"cannot remove what is left of container {life.id}" in caplog.text
    containers.remove(life.id)


async def test_create_with_an_id_that_the_runtime_has(live: Prepare) -> None:
    """What another shim has made is neither taken over nor harmed."""
    life = live(*SLEEP)
    nowhere: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.DEVNULL)
    runc = await asyncio.create_subprocess_exec("runc", "create", "-b", life.bundle, life.id, **nowhere)
    assert await runc.wait() == 0
    pid = json.loads(Path("/run/runc", life.id, "state.json").read_text())["init_process_pid"]
    await refused(life.create(), EXISTS, life.id)
    state = await asyncio.create_subprocess_exec("runc", "state", life.id, stdout=asyncio.subprocess.PIPE)
    output, _ = await state.communicate()
    assert json.loads(output)["status"] == "created"
    containers.remove(life.id)
    os.waitpid(pid, 0)  # this process is a subreaper while there is a shim in it


async def test_a_second_create(live: Prepare) -> None:
    life = live(*SLEEP)
    await life.create()
    other = CreateRequest(id="another", bundle=life.bundle)
    await refused(life.shim.create(other), EXISTS, life.id)
    await refused(life.create(), EXISTS, life.id)
    await life.start()
    await refused(life.shim.create(other), EXISTS, life.id)
    os.kill(life.pid, signal.SIGKILL)
    await life.exit_of(life.pid)
    await refused(life.shim.create(other), EXISTS, life.id)


@pytest.mark.parametrize("path", ["", "relative", "./config", "nul\0"])
async def test_create_with_a_bundle_that_is_no_path(shim: ShimStub, path: str) -> None:
    await refused(shim.create(CreateRequest(id="a", bundle=path)), INVALID, "bundle")


async def test_create_with_a_bundle_that_is_not_there(shim: ShimStub, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    await refused(shim.create(CreateRequest(id="a", bundle=missing)), MISSING, "bundle", missing)
    await refused(shim.create(CreateRequest(id="a", bundle=str(tmp_path))), MISSING, "bundle", "config.json")


async def test_create_with_a_bundle_that_is_no_directory(shim: ShimStub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / "file")
    await refused(shim.create(CreateRequest(id="a", bundle=path)), INVALID, "bundle", "directory")


@pytest.mark.parametrize("config", ["", "no json", "[]", "{}", '{"process": 1}', "[" * 100_000, "\xff"])
async def test_create_with_a_configuration_that_is_none(shim: ShimStub, tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config, encoding="latin-1")
    await refused(shim.create(CreateRequest(id="a", bundle=str(tmp_path))), INVALID, "bundle", "config.json")


async def test_create_with_a_configuration_that_never_ends(shim: ShimStub, tmp_path: Path) -> None:
    """Neither somebody's FIFO nor a file of gigabytes holds up the shim."""
    config = tmp_path / "config.json"
    os.mkfifo(config)
    await refused(shim.create(CreateRequest(id="a", bundle=str(tmp_path))), INVALID, "bundle", "regular")
    config.unlink()
    config.touch()
    os.truncate(config, 1 << 40)
    await refused(shim.create(CreateRequest(id="a", bundle=str(tmp_path))), INVALID, "bundle", "larger")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec["process"].update(args=5), "process.args"),
        (lambda spec: spec["process"].update(args=[]), "args"),
        (lambda spec: spec["process"].update(env=[5]), "process.env"),
        (lambda spec: spec["process"].update(cwd="tmp"), "Cwd"),
        (lambda spec: spec["process"].update(user={"uid": "x"}), "user.uid"),
        (lambda spec: spec["process"].update(rlimits=[{"type": "X", "hard": 1, "soft": 1}]), "rlimit"),
        (lambda spec: spec.update(root=None), "root"),
        (lambda spec: spec.update(mounts=5), "mounts"),
        (lambda spec: spec["linux"]["namespaces"].append({"type": "pid"}), "duplicated ns"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_create_with_a_configuration_that_the_runtime_refuses(
    live: Prepare, change: Callable[[Any], object], words: str
) -> None:
    """The runtime's own words are in the message, and nothing is left."""
    await refused(live("true", change=change).create(), INVALID, "runc create failed", words)


async def test_create_with_a_runtime_that_is_not_there(shim: ShimStub, bundle: Callable[..., str]) -> None:
    for name in ("no-such-runtime", "/no/such/runtime"):
        request = CreateRequest(id="a", bundle=bundle("true"), runtime=name)
        await refused(shim.create(request), MISSING, "runtime", name)


@pytest.mark.parametrize("name", ["./runc", "bin/runc", "-runc", "..", "a\0b", "a\nb"])
async def test_create_with_a_runtime_that_is_neither_name_nor_path(
    shim: ShimStub, bundle: Callable[..., str], name: str
) -> None:
    request = CreateRequest(id="a", bundle=bundle("true"), runtime=name)
    await refused(shim.create(request), INVALID, "runtime")


async def test_create_with_a_runtime_that_is_no_program(
    shim: ShimStub, bundle: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "runtime").touch()
    for path in (tmp_path / "runtime", tmp_path):
        request = CreateRequest(id="a", bundle=bundle("true"), runtime=str(path))
        await refused(shim.create(request), INVALID, "runtime", "executable")


@pytest.mark.parametrize("field", ["stdin", "stdout", "stderr"])
async def test_create_with_stdio_that_cannot_be(live: Prepare, tmp_path: Path, field: str) -> None:
    life = live("true")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.close()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for path, status in {
        "missing": MISSING,
        "file/missing": MISSING,
        "bundle1": INVALID,
        "socket": INVALID,
        "loop": INVALID,
    }.items():
        await refused(life.create(**{field: str(tmp_path / path)}), status, field, path)
    for text in ("relative", "/nul\0", "/" + "x" * 5000):
        await refused(life.create(**{field: text}), INVALID, field)


async def test_create_with_a_terminal_that_the_bundle_knows_nothing_of(live: Prepare) -> None:
    await refused(live("true").create(terminal=True), INVALID, "terminal", "process.terminal")
    await refused(live("true", terminal=True).create(), INVALID, "terminal", "process.terminal")


async def test_create_of_a_program_that_is_not_there(live: Prepare) -> None:
    await refused(live("no-such-program").create(), MISSING, "no-such-program")
    await refused(live("/bin/not-executable").create(), Status.PERMISSION_DENIED, "not-executable")


# -- before there is a container -----------------------------------------------------------------


async def test_calls_before_create(shim: ShimStub) -> None:
    assert await shim.state(StateRequest()) == StateResponse()
    await refused(shim.start(StartRequest()), STATE, "no container")
    await refused(shim.pause(PauseRequest()), STATE, "no container")
    await refused(shim.resume(ResumeRequest()), STATE, "no container")
    await refused(shim.exec(ExecRequest(args=["true"])), STATE, "no container")
    await refused(shim.delete(DeleteRequest(pid=0)), INVALID, "pid")
    await refused(shim.delete(DeleteRequest(pid=1)), MISSING, "1")
    await refused(shim.pty(PtyRequest(pid=0)), INVALID, "pid")
    await refused(shim.pty(PtyRequest(pid=1)), MISSING, "1")


class _Foreign(asyncio.AbstractEventLoop):
    """An event loop that has nothing of asyncio's own, as uvloop's has nothing."""


@pytest.mark.parametrize("opens", [Reaper, Shim])
def test_an_event_loop_that_is_not_asyncios_own(opens: type[Reaper | Shim]) -> None:
    """It would not start the runtime as it has to be, which no Create should be the first to find out."""
    before = is_subreaper()
    asyncio._set_running_loop(_Foreign())  # type: ignore[abstract]
    try:
        with pytest.raises(FailedPreconditionError, match=r"_Foreign.*shimpy\.launch\(\)"):
            opens().open()
    finally:
        asyncio._set_running_loop(None)
    assert is_subreaper() == before


# -- Start, Pause, Resume ------------------------------------------------------------------------


async def test_what_each_state_forbids(live: Prepare) -> None:
    life = live(*SLEEP)

    def start() -> Awaitable[object]:
        return life.shim.start(StartRequest())

    def pause() -> Awaitable[object]:
        return life.shim.pause(PauseRequest())

    def resume() -> Awaitable[object]:
        return life.shim.resume(ResumeRequest())

    await life.create()
    await refused(pause(), STATE, "created")
    await refused(resume(), STATE, "created")
    assert await life.state() is CREATED
    await start()
    await refused(start(), STATE, "running")
    await refused(resume(), STATE, "running")
    assert await life.state() is RUNNING
    await pause()
    await refused(start(), STATE, "paused")
    await refused(pause(), STATE, "paused")
    await refused(life.exec("true"), STATE, "paused")
    assert await life.state() is PAUSED
    await resume()
    os.kill(life.pid, signal.SIGKILL)
    await life.exit_of(life.pid)
    for call in (start(), pause(), resume(), life.exec("true")):
        await refused(call, STATE, "stopped")
    assert await life.state() is STOPPED


async def test_concurrent_starts(live: Prepare) -> None:
    """One of them starts it; the others are told that it is started, or being."""
    life = live(*SLEEP)
    await life.create()
    results = await asyncio.gather(*(life.start() for _ in range(5)), return_exceptions=True)
    statuses = [getattr(result, "status", result) for result in results]
    assert sorted(statuses, key=str) == sorted([None] + [STATE] * 4, key=str)


async def test_a_runtime_that_refuses_to_pause(live: Prepare) -> None:
    life = live(*SLEEP)
    with FakeRuntime() as fake:
        await life.create(runtime=fake.path)
        await life.start()
        fake.fault("pause", Fails(log=error_line("cannot be frozen today")))
        await refused(life.shim.pause(PauseRequest()), Status.INTERNAL, "cannot be frozen today")
        assert await life.state() is RUNNING
        fake.clear()
        await life.shim.pause(PauseRequest())
        fake.fault("resume", Fails(log=error_line("cannot be thawed today")))
        await refused(life.shim.resume(ResumeRequest()), Status.INTERNAL, "cannot be thawed today")
        assert await life.state() is PAUSED
        fake.clear()
        await life.delete()


async def test_the_runtimes_words_are_bounded_and_printable(live: Prepare) -> None:
    life = live(*SLEEP)
    with FakeRuntime() as fake:
        fake.fault("create", Fails(log=error_line("first\nline \x1b[31m" + "x" * 100_000)))
        message = await refused(life.create(runtime=fake.path), Status.INTERNAL, "first line")
        assert message.isprintable()
        assert len(message) < 2000


# -- Delete --------------------------------------------------------------------------------------


async def test_delete_of_what_is_not_ours(live: Prepare) -> None:
    life = await running(live)
    await refused(life.delete(0), INVALID, "pid")
    await refused(life.delete(os.getpid()), MISSING, str(os.getpid()))
    await refused(life.delete(2**32 - 1), MISSING, str(2**32 - 1))
    pid = await life.exec(*SLEEP)
    assert await life.delete(pid) == KILLED
    await refused(life.delete(pid), MISSING, str(pid))
    assert await life.state() is RUNNING


# -- Pty -----------------------------------------------------------------------------------------


async def test_pty_refusals(live: Prepare) -> None:
    life = live(*SLEEP, terminal=True)
    await life.create(terminal=True)
    pty = life.shim.pty
    await refused(pty(PtyRequest(pid=0, width=80, height=24)), INVALID, "pid")
    await refused(pty(PtyRequest(pid=os.getpid(), width=80, height=24)), MISSING, str(os.getpid()))
    await refused(pty(PtyRequest(pid=life.pid, width=65536, height=24)), INVALID, "width", "65535")
    await refused(pty(PtyRequest(pid=life.pid, width=80, height=65536)), INVALID, "height", "65535")
    await pty(PtyRequest(pid=life.pid, width=65535, height=65535))
    await pty(PtyRequest(pid=life.pid))
    await life.start()
    plain = await life.exec(*SLEEP)
    await refused(pty(PtyRequest(pid=plain, width=80, height=24)), STATE, "terminal")
    os.kill(plain, signal.SIGKILL)
    await life.exit_of(plain)
    await refused(pty(PtyRequest(pid=plain, width=80, height=24)), STATE, "stopped")
    os.kill(life.pid, signal.SIGKILL)
    await life.exit_of(life.pid)
    await refused(pty(PtyRequest(pid=life.pid, width=80, height=24)), STATE, "stopped")
    await life.delete()
    await refused(pty(PtyRequest(pid=life.pid, width=80, height=24)), MISSING, str(life.pid))


# -- Exec ----------------------------------------------------------------------------------------


BAD_EXECS = [
    (ExecRequest(), ["args"]),
    (ExecRequest(args=[""]), ["args"]),
    (ExecRequest(args=["a\0b"]), ["args", "NUL"]),
    (ExecRequest(args=["true", "a\0b"]), ["args", "NUL"]),
    (ExecRequest(args=["true"], cwd="relative"), ["cwd", "relative"]),
    (ExecRequest(args=["true"], cwd="/a\0b"), ["cwd", "NUL"]),
    (ExecRequest(args=["true"], env=["A"]), ["env", "NAME=value"]),
    (ExecRequest(args=["true"], env=["A=1", "=1"]), ["env", "=1"]),
    (ExecRequest(args=["true"], env=[""]), ["env"]),
    (ExecRequest(args=["true"], env=["A=\0"]), ["env", "NUL"]),
    (ExecRequest(args=["true"], capabilities=["KILL"]), ["capabilities", "KILL"]),
    (ExecRequest(args=["true"], capabilities=["CAP_EVERYTHING"]), ["capabilities", "CAP_EVERYTHING"]),
    (ExecRequest(args=["true"], user=User(uid=2**32 - 1)), ["user"]),
    (ExecRequest(args=["true"], user=User(gid=2**31)), ["user"]),
    (ExecRequest(args=["true"], user=User(additional_gids=[2**31])), ["user"]),
    (ExecRequest(args=["true"], rlimits=[Rlimit("NOFILE", 1, 1)]), ["rlimits", "NOFILE"]),
    (ExecRequest(args=["true"], rlimits=[Rlimit("RLIMIT_CORE", hard=1, soft=2)]), ["rlimits", "soft"]),
    (ExecRequest(args=["true"], rlimits=[Rlimit("RLIMIT_CORE")] * 2), ["rlimits", "twice"]),
    (ExecRequest(args=["true"], apparmor_profile="a\0b"), ["apparmor_profile"]),
    (ExecRequest(args=["true"], selinux_label="a\0b"), ["selinux_label"]),
    (ExecRequest(args=["true"], stdin="relative"), ["stdin", "relative"]),
    (ExecRequest(args=["true"], stdout="/dev"), ["stdout", "directory"]),
    (ExecRequest(args=["true"], stderr="/dev"), ["stderr", "directory"]),
]


async def test_exec_with_a_bad_field(live: Prepare) -> None:
    """The message names the field; what is bad is bad in every state."""
    life = live(*SLEEP)
    await life.create()
    for request, words in BAD_EXECS:
        await refused(life.shim.exec(request), INVALID, *words)
    assert list(await life.states()) == [life.pid]
    await life.start()
    await life.shim.pause(PauseRequest())
    await refused(life.shim.exec(ExecRequest(args=["true"], cwd="relative")), INVALID, "cwd")


async def test_exec_with_stdio_that_is_not_there(live: Prepare, tmp_path: Path) -> None:
    life = live(*SLEEP)
    await life.create()
    for field in ("stdin", "stdout", "stderr"):
        for terminal in (False, True):
            if terminal and field == "stderr":
                continue
            missing = str(tmp_path / "missing")
            await refused(life.exec("true", terminal=terminal, **{field: missing}), MISSING, field, missing)


async def test_exec_of_what_cannot_be_run(live: Prepare) -> None:
    """The runtime says why; nothing is left of it, and the next exec works."""
    life = await running(live)
    for terminal in (False, True):
        message = await refused(life.exec("no-such-program", terminal=terminal), MISSING, "no-such-program")
        assert "runc exec failed" in message
        await refused(life.exec("/no/such/program", terminal=terminal), MISSING, "/no/such/program")
        await refused(life.exec("not-executable", terminal=terminal), Status.NOT_FOUND, "not-executable")
        for path in ("/bin/not-executable", "/bin"):
            await refused(life.exec(path, terminal=terminal), Status.PERMISSION_DENIED, path)
    assert list(await life.states()) == [life.pid]
    assert len(life.recorder.seen) == 2
    assert (await life.run("echo", "hello")).stdout == "hello\n"


async def test_exec_in_a_directory_that_is_not_there(live: Prepare) -> None:
    life = await running(live)
    await refused(life.exec("true", cwd="/no/such/directory"), MISSING, "/no/such/directory")


async def test_exec_in_a_paused_container_is_answered_at_once(
    live: Prepare, fifo: Callable[[str], Fifo]
) -> None:
    """runc would hang, or fail late; the bound is 50 ms, and this machine may be busy."""
    life = await running(live)
    await life.shim.pause(PauseRequest())
    took = []
    for _ in range(10):
        begun = time.perf_counter()
        await refused(life.exec("true"), STATE, "paused")
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.05
    await life.shim.resume(ResumeRequest())
    assert (await life.run("true")).status == 0


async def test_a_request_that_was_refused_is_not_half_remembered(live: Prepare) -> None:
    life = await running(live)
    for _ in range(3):
        await refused(life.exec("true", cwd="relative"), INVALID)
    assert (await life.run("echo", "well")).stdout == "well\n"
