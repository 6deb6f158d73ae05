"""Commands in a container: their results, their output as it comes, their terminals, and their ends."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import hashlib
import os
import random
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import shimpy
from shimpy.testing import FakeRuntime, Hang
from tests.support import leaks
from tests.support.clock import leap
from tests.support.rounds import rounds
from tests.support.sandboxes import inside, sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def container(
    bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[shimpy.Container]:
    """A container that stays; a test that leaves anything of its commands behind fails."""
    fifos = tmp_path / "fifos"
    fifos.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(fifos))
    async with sandbox(bundle, new_id()) as container:
        await container.run(["true"])
        before = leaks.descriptors()
        yield container
        await leaks.eventually(lambda: inside(container.id) == {container.pid})
        assert list(fifos.iterdir()) == []
        assert [p.pid for p in (await container.state()).processes] == [container.pid]
        await leaks.eventually(lambda: not leaks.opened_since(before))


def sleepers(container_id: str) -> int:
    """Returns how many `sleep 300` run in a container."""
    found = 0
    for pid in inside(container_id):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00300\x00"
    return found


async def test_result_has_both_outputs_and_the_status(container: shimpy.Container) -> None:
    result = await container.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert result == shimpy.Result(b"out\n", b"err\n", 7)


async def test_input_is_read_to_its_end(container: shimpy.Container) -> None:
    data = random.Random(1).randbytes(3 << 20)
    result = await container.run(["sha256sum"], input=data)
    assert result.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_without_input_there_is_nothing_to_read(container: shimpy.Container) -> None:
    assert (await container.run(["cat"])) == shimpy.Result(b"", b"", 0)


async def test_empty_input_ends_at_once(container: shimpy.Container) -> None:
    assert (await container.run(["cat"], input=b"")) == shimpy.Result(b"", b"", 0)


async def test_input_of_items_that_are_longer_than_a_byte_arrives_whole(
    container: shimpy.Container,
) -> None:
    data: Any = array.array("i", range(100_000))
    assert (await container.run(["cat"], input=data)).stdout == data.tobytes()


async def test_empty_array_is_empty_input(container: shimpy.Container) -> None:
    data: Any = array.array("i")
    assert (await container.run(["cat"], input=data)) == shimpy.Result(b"", b"", 0)


async def test_input_that_has_no_bytes_is_refused_before_anything_runs(container: shimpy.Container) -> None:
    text: Any = "hello"
    async with container._client.events() as events:
        with pytest.raises(TypeError, match="bytes-like"):
            await container.run(["cat"], input=text)
        assert [p.pid for p in (await container.state()).processes] == [container.pid]
        pid = await container._client.exec(["true"])
        assert (await anext(events)).pid == pid
        await container._client.delete(pid)


async def test_input_that_is_not_read_is_no_error(container: shimpy.Container) -> None:
    result = await container.run(["sh", "-c", "exec 0<&-; echo done"], input=bytes(1 << 20))
    assert result == shimpy.Result(b"done\n", b"", 0)


async def test_much_output_on_both_arrives_whole(container: shimpy.Container) -> None:
    script = "head -c 5000000 /dev/zero; head -c 4000000 /dev/zero >&2"
    result = await container.run(["sh", "-c", script])
    assert (len(result.stdout), len(result.stderr)) == (5_000_000, 4_000_000)


async def test_output_limit_keeps_the_beginning_and_lets_the_command_end(container: shimpy.Container) -> None:
    script = "echo begin; head -c 3000000 /dev/zero; echo short >&2; exit 3"
    result = await container.run(["sh", "-c", script], output_limit=1000)
    assert (result.stdout[:6], len(result.stdout), result.stderr) == (b"begin\n", 1000, b"short\n")
    assert (result.exit_status, result.truncated, result.timed_out) == (3, True, False)


async def test_output_of_exactly_the_limit_is_not_truncated(container: shimpy.Container) -> None:
    result = await container.run(["echo", "12345"], output_limit=6)
    assert (result.stdout, result.truncated) == (b"12345\n", False)


async def test_options_reach_the_process(container: shimpy.Container) -> None:
    result = await container.run(
        ["/bin/sh", "-c", "pwd; id -u; id -g; id -G; ulimit -c; echo $NAME"],
        env={"PATH": "/bin", "NAME": "a=b"},
        cwd=Path("/tmp"),
        user=shimpy.User(1000, 1001, (7, 8)),
        rlimits=[shimpy.Rlimit("RLIMIT_CORE", 7 * 512, 9 * 512)],
    )
    assert result.stdout.decode().split("\n") == ["/tmp", "1000", "1001", "1001 7 8", "7", "a=b", ""]


async def test_root_can_be_asked_for_where_the_container_has_another_user(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with sandbox(bundle, new_id(), user=(1000, 1000)) as container:
        assert (await container.run(["id", "-u"])).stdout == b"1000\n"
        assert (await container.run(["id", "-u"], user=shimpy.User())).stdout == b"0\n"


async def test_background_child_that_holds_the_output_is_not_waited_for(container: shimpy.Container) -> None:
    result = await asyncio.wait_for(container.run(["sh", "-c", "sleep 1000 & echo done; exit 4"]), 20)
    assert result == shimpy.Result(b"done\n", b"", 4)


async def test_timeout_ends_the_whole_tree_and_returns_what_was_written(container: shimpy.Container) -> None:
    running = asyncio.ensure_future(
        container.run(["sh", "-c", "echo part; sleep 300 & sleep 300"], timeout=100)
    )
    await leaks.eventually(lambda: sleepers(container.id) == 2)
    leap(100)
    began = time.monotonic()
    assert await running == shimpy.Result(b"part\n", b"", 137, timed_out=True)
    assert time.monotonic() - began < 5  # half a second is promised, on a machine of its own
    assert inside(container.id) == {container.pid}


async def test_timeout_that_has_passed_already(container: shimpy.Container) -> None:
    result = await container.run(["sleep", "300"], timeout=0)
    assert (result.exit_status, result.timed_out) == (137, True)


async def test_what_ends_by_itself_has_not_timed_out(container: shimpy.Container) -> None:
    for _ in range(10):
        result = await container.run(["true"], timeout=0)
        assert (result.exit_status, result.timed_out) in ((0, False), (137, True))


async def test_timeout_is_not_reached(container: shimpy.Container) -> None:
    assert (await container.run(["true"], timeout=60)) == shimpy.Result(b"", b"", 0)


async def test_fifty_at_once_keep_to_their_timeouts_and_their_outputs(container: shimpy.Container) -> None:
    running = asyncio.gather(
        *(container.run(["sh", "-c", f"echo {n}; sleep 300 & sleep 300"], timeout=100) for n in range(50))
    )
    await leaks.eventually(lambda: sleepers(container.id) == 100, within=50)
    leap(100)
    expected = [shimpy.Result(f"{n}\n".encode(), b"", 137, timed_out=True) for n in range(50)]
    assert await running == expected
    assert inside(container.id) == {container.pid}


async def test_fifty_at_once_get_their_own_statuses(container: shimpy.Container) -> None:
    results = await asyncio.gather(
        *(container.run(["sh", "-c", f"cat; exit {n}"], input=f"{n}".encode()) for n in range(50))
    )
    assert results == [shimpy.Result(f"{n}".encode(), b"", n) for n in range(50)]


async def test_cancelled_at_random_moments_leaves_nothing(container: shimpy.Container) -> None:
    moments = random.Random(5)
    for _ in range(rounds(10, 200)):
        running = asyncio.ensure_future(
            container.run(["sh", "-c", "cat; sleep 300 & sleep 300"], input=bytes(100_000))
        )
        await asyncio.sleep(moments.uniform(0, 0.08))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert inside(container.id) == {container.pid}


async def test_cancelled_twice_still_cleans_up(container: shimpy.Container) -> None:
    running = asyncio.ensure_future(container.run(["sleep", "300"]))
    while len((await container.state()).processes) == 1:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert inside(container.id) == {container.pid}


async def test_timeout_of_the_caller_is_a_timeout(container: shimpy.Container) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await container.run(["sleep", "300"])
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_program_that_is_not_there(container: shimpy.Container) -> None:
    with pytest.raises(shimpy.NotFoundError, match="no-such-program"):
        await container.run(["no-such-program"])


async def test_program_that_may_not_be_run(container: shimpy.Container) -> None:
    with pytest.raises(shimpy.PermissionDeniedError):
        await container.run(["/bin/not-executable"])


async def test_arguments_that_cannot_be_meant(container: shimpy.Container) -> None:
    with pytest.raises(TypeError, match="args"):
        await container.run("ls")
    with pytest.raises(shimpy.InvalidArgumentError, match="env"):
        await container.run(["true"], env={"A=B": "c"})
    with pytest.raises(shimpy.InvalidArgumentError, match="args"):
        await container.run([])


async def test_paused_container_says_so(container: shimpy.Container) -> None:
    await container.pause()
    try:
        with pytest.raises(shimpy.FailedPreconditionError, match="paused"):
            await container.run(["true"])
    finally:
        await container.resume()


@pytest.mark.parametrize("left", [0, 1])
async def test_too_few_descriptors_for_the_outputs_are_said_and_leave_nothing(
    container: shimpy.Container, left: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, hard))
    try:
        with pytest.raises(shimpy.ResourceExhaustedError, match="FIFOs: Too many open files"):
            await container.run(["true"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_no_descriptor_for_the_input_is_said_and_ends_the_command(
    container: shimpy.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = os.open

    def fails(path: str, flags: int, *args: Any, **options: Any) -> int:
        if str(path).endswith("/stdin") and flags == os.O_WRONLY | os.O_NONBLOCK:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opens(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(shimpy.ResourceExhaustedError, match="FIFOs: Too many open files"):
        await container.run(["sleep", "300"], input=b"")


async def test_no_room_for_the_fifos_is_said_and_leaves_no_directory(
    container: shimpy.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = os.mkfifo

    def fails(path: str, mode: int) -> None:
        if path.endswith("stderr"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        makes(path, mode)

    monkeypatch.setattr(os, "mkfifo", fails)
    with pytest.raises(shimpy.ResourceExhaustedError, match="FIFOs: No space left"):
        await container.run(["true"])


async def test_stream_brings_output_as_it_is_written(container: shimpy.Container) -> None:
    async with container.stream(["sh", "-c", "echo out; read x; echo $x >&2; exit 5"], stdin=True) as command:
        assert await anext(command) == ("stdout", b"out\n")
        await command.write(b"word\n")
        assert [piece async for piece in command] == [("stderr", b"word\n")]
        assert await command.wait() == 5


async def test_stream_ends_with_the_command_not_with_its_children(container: shimpy.Container) -> None:
    async with container.stream(["sh", "-c", "sleep 1000 & echo out; exit 2"]) as command:
        assert [piece async for piece in command] == [("stdout", b"out\n")]
        assert await command.wait() == 2


async def test_stream_left_early_kills_the_command(container: shimpy.Container) -> None:
    async with container.stream(["yes"]) as command:
        await anext(command)
    assert await command.wait() == 137
    assert inside(container.id) == {container.pid}


async def test_stream_that_nobody_fetches_makes_the_command_wait(container: shimpy.Container) -> None:
    async with container.stream(["sh", "-c", "head -c 3000000 /dev/zero"]) as command:
        first = await anext(command)
        size = len(first.data)
        async for _, data in command:
            await asyncio.sleep(0)
            assert command._output._held["stdout"] < 1 << 19
            size += len(data)
        assert (size, await command.wait()) == (3_000_000, 0)


async def test_stream_closes_stdin(container: shimpy.Container) -> None:
    async with container.stream(["cat"], stdin=True) as command:
        await command.write(b"all")
        await command.close_stdin()
        assert [piece async for piece in command] == [("stdout", b"all")]
        with pytest.raises(BrokenPipeError):
            await command.write(b"more")


async def test_stream_wait_alone_returns_the_status_and_keeps_the_output(container: shimpy.Container) -> None:
    async with container.stream(["sh", "-c", "echo out; exit 6"]) as command:
        assert await command.wait() == 6
        assert [piece async for piece in command] == [("stdout", b"out\n")]


async def test_pty_is_a_terminal_of_that_size(container: shimpy.Container) -> None:
    async with container.pty(["sh", "-c", "read x; stty size; exit 9"], width=100, height=30) as pty:
        await pty.write(b"go\n")
        shown = b"".join([data async for data in pty])
        assert await pty.wait() == 9
    assert shown == b"go\r\n30 100\r\n"


async def _until(pty: shimpy.Pty, awaited: bytes) -> None:
    shown = b""
    while awaited not in shown:
        piece = await pty.read()
        assert piece, f"the command ended after {shown!r}"
        shown += piece


async def test_pty_takes_a_control_d_as_the_end(container: shimpy.Container) -> None:
    async with container.pty(["cat"]) as pty:
        await pty.write(b"line\n")
        await pty.write(bytes([4]))
        shown = b"".join([data async for data in pty])
        assert await pty.wait() == 0
    assert shown == b"line\r\nline\r\n"


async def test_pty_in_raw_mode_reads_a_control_d_as_it_is(container: shimpy.Container) -> None:
    async with container.pty(["sh", "-c", "stty raw -echo; echo ready; head -c 1 | od -An -tx1"]) as pty:
        await _until(pty, b"ready")
        await pty.write(bytes([4]))
        await _until(pty, b"04")


async def test_pty_is_resized(container: shimpy.Container) -> None:
    # A shell that a signal reaches on its way into a `read` sees to it only when there is something to read.
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    async with container.pty(["sh", "-c", script]) as pty:
        await _until(pty, b"ready\r\n")  # the first size may be told before it, or after it
        await pty.resize(120, 40)
        await _until(pty, b"40 120\r\n")
        await pty.kill()
        assert await pty.wait() == 137


async def test_pty_passes_control_c_on(container: shimpy.Container) -> None:
    script = "trap 'exit 33' INT; echo ready; while :; do sleep 0.05; done"
    async with container.pty(["sh", "-c", script]) as pty:
        await _until(pty, b"ready\r\n")
        await pty.write(b"\x03")
        assert await pty.wait() == 33


async def test_pty_loses_nothing_at_the_end(container: shimpy.Container) -> None:
    for _ in range(rounds(3, 50)):
        async with container.pty(["sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x; echo end"]) as pty:
            shown = b"".join([data async for data in pty])
        assert (len(shown), shown[-5:]) == (200_005, b"end\r\n")


async def test_resize_after_the_end(container: shimpy.Container) -> None:
    async with container.pty(["true"]) as pty:
        await pty.wait()
        with pytest.raises(shimpy.FailedPreconditionError):
            await pty.resize(1, 1)


@pytest.mark.parametrize(("width", "height"), [(-1, 24), (99_999, 24), (80, -1), (80, 65_536)])
async def test_size_that_no_terminal_has_is_refused(
    container: shimpy.Container, width: int, height: int
) -> None:
    with pytest.raises(shimpy.InvalidArgumentError):
        async with container.pty(["sleep", "300"], width=width, height=height):
            pass


async def test_pty_that_is_over_before_it_gets_its_size_is_no_error(container: shimpy.Container) -> None:
    for _ in range(rounds(5, 50)):
        async with container.pty(["true"]) as pty:
            assert await pty.wait() == 0


async def test_init_that_dies_takes_its_commands_along(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    init = "until [ -e /tmp/go ]; do sleep 0.01; done; exit 8"
    async with (
        shimpy.in_process() as client,
        client.container(new_id(), bundle("sh", "-c", init)) as container,
    ):
        # Its input comes once it is there.
        result = await container.run(["sh", "-c", "read x; touch /tmp/go; sleep 300"], input=b"\n")
        assert (result.exit_status, result.timed_out) == (137, False)
        assert await container.wait() == 8
        with pytest.raises(shimpy.FailedPreconditionError):
            await container.run(["true"])


async def test_time_that_is_up_while_the_runtime_starts_it_is_the_end_of_it(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    with FakeRuntime() as fake:
        fake.fault("start", Hang())
        async with shimpy.in_process(runtime=fake.path) as client:
            with pytest.raises(shimpy.DeadlineExceededError):
                await client.run(new_id(), bundle("true"), timeout=0)
            assert not (await client.state()).id
        assert "start" in [call.command for call in fake.calls]


async def test_one_shot_in_a_root_directory(rootfs: Path) -> None:
    result = await shimpy.run(
        rootfs, ["sh", "-c", "cat; pwd; echo $NAME"], input=b"in\n", env={"NAME": "x"}, cwd="/tmp"
    )
    assert result == shimpy.Result(b"in\n/tmp\nx\n", b"", 0)


async def test_one_shot_waits_for_its_turn(rootfs: Path) -> None:
    limiter = anyio.CapacityLimiter(1)
    limiter.acquire_on_behalf_of_nowait("another")
    with anyio.move_on_after(0.2) as waiting:
        await shimpy.run(rootfs, ["true"], timeout=0, limiter=limiter)
    assert waiting.cancelled_caught
    limiter.release_on_behalf_of("another")
    assert (await shimpy.run(rootfs, ["true"], timeout=30, limiter=limiter)).exit_status == 0
    assert limiter.borrowed_tokens == 0


async def test_one_shot_from_a_bundle(bundle: Callable[..., str]) -> None:
    made = bundle("sh", "-c", "echo from the bundle; exit 3")
    assert await shimpy.run(made) == shimpy.Result(b"from the bundle\n", b"", 3)
    assert await shimpy.run(made, ["echo", "other"]) == shimpy.Result(b"other\n", b"", 0)


async def test_one_shot_at_the_end_of_its_time(
    rootfs: Path, new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = new_id()
    monkeypatch.setattr("shimpy.client.one_shot.new_id", lambda: container_id)
    running = asyncio.ensure_future(
        shimpy.run(rootfs, ["sh", "-c", "echo part; sleep 300 & sleep 300"], timeout=100)
    )
    await leaks.eventually(lambda: sleepers(container_id) == 2)
    leap(100)
    assert await running == shimpy.Result(b"part\n", b"", 137, timed_out=True)


async def test_one_shot_without_anything_to_run(rootfs: Path) -> None:
    with pytest.raises(shimpy.InvalidArgumentError, match="args"):
        await shimpy.run(rootfs)
    with pytest.raises(shimpy.NotFoundError):
        await shimpy.run(os.path.join(rootfs, "missing"), ["true"])
