"""Hooks of a shim: what they see, change and refuse, and what a bad one does to its calls and to others."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import shimpy
from tests.support import leaks
from tests.support.machine import RUNTIME

pytestmark = pytest.mark.anyio

INIT = ("sh", "-c", "sleep 1000000 & wait")


@pytest.fixture
def sandbox(bundle: Callable[..., str], new_id: Callable[[], str]) -> Callable[..., Any]:
    """Makes running containers of shims with hooks."""

    @asynccontextmanager
    async def make(*hooks: shimpy.Hooks) -> AsyncIterator[shimpy.Container]:
        async with (
            shimpy.in_process(runtime=RUNTIME, hooks=hooks) as shim,
            shim.container(new_id(), bundle(*INIT)) as container,
        ):
            yield container

    return make


class Told(shimpy.Hooks):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def __contains__(self, name: str) -> bool:
        return name in [each for each, _ in self.told]

    def of(self, name: str) -> list[Any]:
        return [what for each, what in self.told if each == name]

    async def started(self, process: shimpy.HookProcess) -> None:
        self.told.append(("started", process))

    async def failed(self, process: shimpy.HookProcess, error: shimpy.ShimError) -> None:
        self.told.append(("failed", (process, error)))

    async def exited(self, process: shimpy.HookProcess) -> None:
        self.told.append(("exited", process))

    async def oom(self, container: shimpy.HookContainer) -> None:
        self.told.append(("oom", container))

    async def paused(self, container: shimpy.HookContainer) -> None:
        self.told.append(("paused", container))

    async def resumed(self, container: shimpy.HookContainer) -> None:
        self.told.append(("resumed", container))

    async def deleted(self, container: shimpy.HookContainer) -> None:
        self.told.append(("deleted", container))


async def test_they_are_told_in_order(sandbox: Callable[..., Any]) -> None:
    told = Told()
    async with sandbox(told) as container:
        await container.run(["sh", "-c", "exit 7"])
        await container.pause()
        await container.resume()
    names = [name for name, _ in told.told]

    assert names == ["started", "started", "exited", "paused", "resumed", "exited", "deleted"]
    init, one = told.of("exited")[1], told.of("exited")[0]
    assert (one.args, one.exit_status, one.is_exec) == (("sh", "-c", "exit 7"), 7, True)
    assert (init.args, init.exit_status, init.is_exec) == (INIT, 137, False)
    assert init.pid == container.pid
    assert 0 < one.requested_at <= one.started_at <= one.exited_at
    assert [process.id for process in told.of("started")] == [init.id, one.id]


async def test_an_oom_kill_is_told_before_its_exit(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    told, name = Told(), new_id()
    async with shimpy.in_process(runtime=RUNTIME, hooks=told) as shim:
        await shim.run(name, bundle("tail", "/dev/zero", memory=24 << 20))
    names = [each for each, _ in told.told]

    assert names == ["started", "oom", "exited", "deleted"]
    assert told.of("oom")[0].id == name


async def test_the_spec_that_a_hook_leaves_is_run(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    class Changing(shimpy.Hooks):
        async def before_create(self, create: shimpy.HookCreate) -> None:
            create.spec["process"]["env"].append("ADDED=by a hook")
            create.spec["hostname"] = "hooked"

    path = bundle("sh", "-c", "echo $ADDED; hostname")
    before = Path(path, "config.json").read_bytes()
    async with shimpy.in_process(runtime=RUNTIME, hooks=Changing()) as shim:
        first = await shim.run(new_id(), path)
    async with shimpy.in_process(runtime=RUNTIME, hooks=Changing()) as shim:
        second = await shim.run(new_id(), path)

    assert first.stdout == second.stdout == b"by a hook\nhooked\n"
    assert Path(path, "config.json").read_bytes() == before, "the client's bundle is its own"


async def test_execs_come_from_the_changed_spec(sandbox: Callable[..., Any]) -> None:
    class Changing(shimpy.Hooks):
        async def before_create(self, create: shimpy.HookCreate) -> shimpy.HookCreate:
            spec = {**create.spec, "process": {**create.spec["process"], "cwd": "/tmp"}}
            return shimpy.HookCreate(create.container, create.process_id, spec)

    async with sandbox(Changing()) as container:
        assert (await container.run(["pwd"])).stdout == b"/tmp\n"


async def test_paths_relative_to_the_bundle_stay_so(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    class Changing(shimpy.Hooks):
        async def before_create(self, create: shimpy.HookCreate) -> None:
            create.spec["hostname"] = "hooked"

    path = Path(bundle("cat", "/mnt/file"))
    spec = json.loads((path / "config.json").read_text())
    rootfs = Path(spec["root"]["path"])
    (rootfs / "mnt").mkdir(exist_ok=True)
    (path / "shared").mkdir()
    (path / "shared" / "file").write_text("of the bundle\n")
    spec["root"]["path"] = os.path.relpath(rootfs, path)
    spec["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": "shared", "options": ["bind", "ro"]}
    )
    (path / "config.json").write_text(json.dumps(spec))
    async with shimpy.in_process(runtime=RUNTIME, hooks=Changing()) as shim:
        result = await shim.run(new_id(), path)

    assert result.stdout == b"of the bundle\n"


async def test_a_hook_changes_an_exec(sandbox: Callable[..., Any]) -> None:
    class Changing(shimpy.Hooks):
        async def before_exec(self, call: shimpy.HookExec) -> None:
            call.args = ["sh", "-c", "id -u; pwd; echo $NAME"]
            call.env.append("NAME=hook")
            call.cwd = "/tmp"
            call.user = shimpy.User(uid=1000)

    told = Told()
    async with sandbox(Changing(), told) as container:
        result = await container.run(["no-such-program"])

    assert result.stdout == b"1000\n/tmp\nhook\n"
    assert told.of("exited")[0].args[0] == "sh"


async def test_hooks_are_asked_in_order(sandbox: Callable[..., Any]) -> None:
    class Adding(shimpy.Hooks):
        def __init__(self, word: str) -> None:
            self.word = word

        async def before_exec(self, call: shimpy.HookExec) -> None:
            call.args.append(self.word)

    async with sandbox(Adding("one"), Adding("two")) as container:
        assert (await container.run(["echo"])).stdout == b"one two\n"


class Refusing(shimpy.Hooks):
    async def before_exec(self, call: shimpy.HookExec) -> None:
        if call.args[0] == "touch":
            raise shimpy.PermissionDeniedError("no touching here")


async def test_a_refusal_has_the_hooks_words_and_nothing_runs(sandbox: Callable[..., Any]) -> None:
    told = Told()
    async with sandbox(told, Refusing()) as container:
        with pytest.raises(shimpy.PermissionDeniedError) as refused:
            await container.run(["touch", "/tmp/touched"])
        seen = await container.run(["ls", "/tmp"])
    ((process, error),) = told.of("failed")

    assert str(refused.value) == "no touching here"
    assert b"touched" not in seen.stdout
    assert (process.args, str(error)) == (("touch", "/tmp/touched"), "no touching here")


async def test_a_refused_create_leaves_nothing(bundle: Callable[..., str], new_id: Callable[[], str]) -> None:
    class NoCreate(shimpy.Hooks):
        refuses = True

        async def before_create(self, create: shimpy.HookCreate) -> None:
            if self.refuses:
                raise shimpy.PermissionDeniedError("not this one")

    hooks, name = NoCreate(), new_id()
    async with shimpy.in_process(runtime=RUNTIME, hooks=hooks) as shim:
        with pytest.raises(shimpy.PermissionDeniedError, match="not this one"):
            await shim.create(name, bundle("true"))
        assert not (await shim.state()).id
        hooks.refuses = False
        assert (await shim.run(name, bundle("true"))).exit_status == 0


async def test_a_failed_exec_is_told(sandbox: Callable[..., Any]) -> None:
    told = Told()
    async with sandbox(told) as container:
        with pytest.raises(shimpy.NotFoundError):
            await container.run(["no-such-program"])
    ((process, error),) = told.of("failed")

    assert process.args == ("no-such-program",)
    assert error.code == "NOT_FOUND"


class Bad(shimpy.Hooks):
    """Does to one exec what its first argument says, and nothing to others."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def before_exec(self, call: shimpy.HookExec) -> Any:
        self.asked.append(call.args[0])
        match call.args[0]:
            case "hang":
                await asyncio.sleep(1000)
            case "block":
                time.sleep(3)
            case "raise":
                raise ValueError("of its own")
            case "exit":
                raise SystemExit(1)
            case "cancel":
                raise asyncio.CancelledError
            case "nonsense":
                return 42
            case "no-program":
                call.args = []
            case "not-text":
                call.env.append(b"NAME=value")  # type: ignore[arg-type]
        return None


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("hang", shimpy.DeadlineExceededError, r"hook Bad.before_exec did not return within 1.5 s"),
        ("block", shimpy.DeadlineExceededError, r"hook Bad.before_exec did not return within 1.5 s"),
        ("raise", shimpy.InternalError, r"hook Bad.before_exec failed: ValueError: of its own"),
        ("exit", shimpy.InternalError, r"hook Bad.before_exec failed: SystemExit: 1"),
        ("cancel", shimpy.InternalError, r"hook Bad.before_exec failed: CancelledError"),
        ("nonsense", shimpy.InternalError, r"returned 42, which is neither a HookExec nor None"),
        ("no-program", shimpy.InternalError, r"cannot be run: args: is empty"),
        ("not-text", shimpy.InternalError, r"cannot be run: env: has a value that is not a string"),
    ],
)
async def test_a_bad_hook_fails_its_call_and_no_other(
    sandbox: Callable[..., Any], what: str, error: type[shimpy.ShimError], words: str
) -> None:
    hooks = Bad()
    hooks.time_limit = 1.5
    async with sandbox(hooks) as container:
        bad = asyncio.ensure_future(container.run([what]))
        await leaks.eventually(lambda: what in hooks.asked)
        # The bad one's is running; the others' need not be short on a busy machine.
        hooks.time_limit = 60
        assert (await container.run(["echo", "good"])).stdout == b"good\n"
        with pytest.raises(error, match=words):
            await bad


async def test_a_bad_hook_is_logged_if_it_says_so(
    sandbox: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Logging(Bad):
        on_error = "log"

    async with sandbox(Logging()) as container:
        with pytest.raises(shimpy.NotFoundError, match='"nonsense"'):
            await container.run(["nonsense"])

    assert "hook Logging.before_exec returned 42" in caplog.text


async def test_a_hook_that_is_told_delays_nothing(sandbox: Callable[..., Any]) -> None:
    class Hanging(Told):
        time_limit = 1000.0

        async def exited(self, process: shimpy.HookProcess) -> None:
            await asyncio.sleep(1000)

    async with sandbox(Hanging()) as container:
        results = [await container.run(["true"]) for _ in range(3)]

    assert [result.exit_status for result in results] == [0, 0, 0]


async def test_the_death_of_a_container_ends_the_wait_for_a_hook(sandbox: Callable[..., Any]) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Waiting(shimpy.Hooks):
        time_limit = 1000.0

        async def before_exec(self, call: shimpy.HookExec) -> None:
            loop.call_soon_threadsafe(asked.set)
            await asyncio.sleep(1000)

    async with sandbox(Waiting()) as container:
        call = asyncio.ensure_future(container.run(["true"]))
        await asked.wait()

    with pytest.raises(shimpy.FailedPreconditionError):
        await call


async def test_an_object_has_one_thread_until_its_last_shim_ends(sandbox: Callable[..., Any]) -> None:
    def threads() -> int:
        return [thread.name for thread in threading.enumerate()].count("hook Told")

    await leaks.eventually(lambda: threads() == 0)
    hooks = Told()
    async with sandbox(hooks):
        async with sandbox(hooks):
            await leaks.eventually(lambda: len(hooks.of("started")) == 2)
        assert threads() == 1

    await leaks.eventually(lambda: threads() == 0)


def test_without_hooks_nothing_of_them_is_loaded() -> None:
    program = (
        "import sys, shimpy.daemon.serve, shimpy.daemon.containerd.daemon as daemon; daemon.load(); "
        "rooms = 'shimpy.core.hooks', 'shimpy.hooks', 'tomllib'; "
        "print([name for name in sys.modules if name.startswith(rooms)])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout

    assert printed == "[]\n"


def _made(**contents: object) -> shimpy.Hooks:
    hooks: shimpy.Hooks = type("Made", (shimpy.Hooks,), contents)()
    return hooks


@pytest.mark.parametrize(
    ("hooks", "error", "words"),
    [
        ([Told], TypeError, "Told is not an object of a subclass of shimpy.Hooks"),
        ([Told(), 3], TypeError, "int is not an object"),
        (_made(exited=lambda *_: None), TypeError, "Made.exited must be `async def`"),
        (_made(time_limit=0), ValueError, "Made.time_limit must be seconds above 0"),
        (_made(on_error="ignore"), ValueError, 'must be "refuse" or "log"'),
    ],
    ids=["class", "number", "not async", "no time", "on_error"],
)
async def test_what_cannot_be_hooks_is_refused(hooks: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        async with shimpy.in_process(runtime=RUNTIME, hooks=hooks):
            pass
