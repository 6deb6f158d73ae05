"""What a command reads and writes, as anyio's streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream, ObjectReceiveStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream, TextSendStream
from grpclib.testing import ChannelFor

import shimpy
from shimpy.client.deadline import Deadline, in_turn
from shimpy.client.lines import LineStream
from tests.support.leaks import eventually
from tests.support.sandboxes import inside

pytestmark = pytest.mark.anyio


async def test_text_goes_through_anyio_s_wrappers(sandboxed: shimpy.Container) -> None:
    async with sandboxed.stream(["cat"], stdin=True) as command:
        async with TextSendStream(command.stdin) as text:
            await text.send("grüße\n")
        received = [part async for part in TextReceiveStream(command.stdout)]
    assert "".join(received) == "grüße\n"


async def test_the_buffered_wrapper_reads_up_to_a_delimiter(sandboxed: shimpy.Container) -> None:
    async with sandboxed.stream(["printf", "one two"]) as command:
        buffered = BufferedByteReceiveStream(command.stdout)
        assert await buffered.receive_until(b" ", 100) == b"one"
        assert await buffered.receive_exactly(3) == b"two"
        with pytest.raises(anyio.EndOfStream):
            await command.stdout.receive()


async def test_each_output_is_read_by_itself(sandboxed: shimpy.Container) -> None:
    # More on each than is held, so that neither may keep the other back.
    script = "head -c 600000 /dev/zero >&2; head -c 600000 /dev/zero; echo end >&2"
    async with sandboxed.stream(["sh", "-c", script]) as command:
        sizes: dict[str, int] = {}

        async def read(name: str, stream: ByteReceiveStream) -> None:
            sizes[name] = sum([len(data) async for data in stream])

        async with anyio.create_task_group() as group:
            group.start_soon(read, "stdout", command.stdout)
            group.start_soon(read, "stderr", command.stderr)
    assert sizes == {"stdout": 600_000, "stderr": 600_004}


async def test_an_output_that_is_closed_is_not_waited_for(sandboxed: shimpy.Container) -> None:
    script = "head -c 3000000 /dev/zero >&2; echo done"
    async with sandboxed.stream(["sh", "-c", script]) as command:
        await command.stderr.aclose()
        assert await command.stdout.receive() == b"done\n"
        with pytest.raises(anyio.ClosedResourceError):
            await command.stderr.receive()


async def test_at_most_so_many_bytes_are_received(sandboxed: shimpy.Container) -> None:
    async with sandboxed.stream(["printf", "abcdef"]) as command:
        assert [await command.stdout.receive(4), await command.stdout.receive(4)] == [b"abcd", b"ef"]
        with pytest.raises(ValueError, match="max_bytes"):
            await command.stdout.receive(0)


async def test_writing_to_a_closed_input_says_so(sandboxed: shimpy.Container) -> None:
    async with sandboxed.stream(["cat"], stdin=True) as command:
        await command.stdin.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await command.stdin.send(b"more")
    async with sandboxed.stream(["cat"]) as command:
        with pytest.raises(anyio.BrokenResourceError):
            await command.stdin.send(b"nothing is read")


async def test_a_terminal_is_a_byte_stream(sandboxed: shimpy.Container) -> None:
    async with sandboxed.pty(["sh", "-c", "stty -echo; read x; echo got $x"]) as terminal:
        assert isinstance(terminal, ByteStream)
        await terminal.send(b"it\n")
        shown = b""
        async for data in terminal:
            shown += data
        assert b"got it" in shown


async def test_streams_are_of_anyio_s_kinds(sandboxed: shimpy.Container) -> None:
    async with sandboxed.stream(["true"]) as command:
        assert isinstance(command, ObjectReceiveStream)
        assert isinstance(command.stdin, ByteSendStream)
        assert isinstance(command.stdout, ByteReceiveStream)


async def test_lines_are_whole_and_in_order_for_each_output(sandboxed: shimpy.Container) -> None:
    script = "printf 'o'; sleep 0.05; printf 'ne\\ntwo\\r\\n'; echo err >&2; sleep 0.05; printf last"
    async with sandboxed.stream(["sh", "-c", script]) as command:
        lines = [line async for line in command.lines()]
    assert [line for stream, line in lines if stream == "stdout"] == [b"one", b"two", b"last"]
    assert [line for stream, line in lines if stream == "stderr"] == [b"err"]


async def test_a_line_that_is_too_long_comes_in_pieces(sandboxed: shimpy.Container) -> None:
    async with sandboxed.stream(["printf", "abcdef\n"]) as command:
        lines = [bytes(line) async for _, line in command.lines(limit=4)]
    assert lines == [b"abcd", b"ef"]


async def test_at_its_timeout_a_stream_ends_with_its_command(sandboxed: shimpy.Container) -> None:
    async with sandboxed.stream(
        ["sh", "-c", "echo started; sleep 1000 & sleep 1000"], timeout=0.3
    ) as command:
        assert [chunk async for chunk in command] == [("stdout", b"started\n")]
        assert (await command.wait(), command.timed_out) == (137, True)


async def test_beyond_its_limit_output_is_thrown_away(sandboxed: shimpy.Container) -> None:
    script = "head -c 3000000 /dev/zero; echo err >&2"
    async with sandboxed.stream(["sh", "-c", script], output_limit=1000) as command:
        sizes = {"stdout": 0, "stderr": 0}
        async for stream, data in command:
            sizes[stream] += len(data)
        assert (sizes, command.truncated, await command.wait()) == ({"stdout": 1000, "stderr": 4}, True, 0)


async def test_a_signal_reaches_the_command_alone(sandboxed: shimpy.Container) -> None:
    script = "trap 'echo caught; exit 6' TERM; sleep 1000 & echo ready; wait"
    async with sandboxed.stream(["sh", "-c", script]) as command:
        assert await command.stdout.receive() == b"ready\n"
        await command.kill(15)
        assert await command.wait() == 6
        assert [data async for data in command.stdout] == [b"caught\n"]


async def test_a_terminal_has_its_size_at_the_first_look(sandboxed: shimpy.Container) -> None:
    async with sandboxed.pty(["stty", "size"], width=123, height=45) as terminal:
        assert b"".join([data async for data in terminal]) == b"45 123\r\n"


async def test_a_terminal_that_is_not_to_be_had_leaves_nothing(sandboxed: shimpy.Container) -> None:
    with pytest.raises(shimpy.NotFoundError, match="no-such"):
        async with sandboxed.pty(["no-such"]):
            pass
    for error, options in ((shimpy.InvalidArgumentError, {"cwd": "relative"}), (TypeError, {"cwd": 7})):
        with pytest.raises(error, match="cwd"):
            async with sandboxed.pty(["true"], **options):
                pass
    assert len(list((await sandboxed.state()).processes)) == 1


async def test_a_shim_without_the_task_api_has_terminals_too(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with shimpy.Shim() as shim, ChannelFor([shim]) as channel:
        client = shimpy.ShimClient(channel)
        async with client.container(new_id(), bundle("sleep", "1000")) as container:
            script = "read x; stty size"
            async with container.pty(["sh", "-c", script], width=99, height=33) as terminal:
                await terminal.send(b"go\n")
                assert b"33 99" in b"".join([data async for data in terminal])
            with pytest.raises(shimpy.UnimplementedError):
                await container.stats()
        await client.aclose()


async def test_what_a_terminal_s_command_started_ends_with_it(sandboxed: shimpy.Container) -> None:
    # In a session of its own no hang-up reaches it.
    async with sandboxed.pty(["sh", "-c", "setsid sleep 1000 & echo ready; wait"]) as terminal:
        await terminal.read()
        await eventually(lambda: len(inside(sandboxed.id)) >= 3)
    await eventually(lambda: inside(sandboxed.id) == {sandboxed.pid})


async def test_closing_a_terminal_s_input_ends_what_reads_it(sandboxed: shimpy.Container) -> None:
    script = "trap '' HUP; stty raw -echo; echo ready; head -c 5; echo read the end >/tmp/end 2>&1; exit 7"
    async with sandboxed.pty(["sh", "-c", script]) as terminal:
        await terminal.read()
        await terminal.close_stdin()
        await terminal.close_stdin()
        assert await terminal.wait() == 7


async def test_leaving_a_scope_kills_the_command(sandboxed: shimpy.Container) -> None:
    with anyio.move_on_after(0.3) as scope:
        async with sandboxed.stream(["sh", "-c", "echo ready; sleep 1000"]) as command:
            async for _ in command:
                pass
    assert scope.cancelled_caught
    assert [listed.pid for listed in (await sandboxed.state()).processes] == [sandboxed.pid]


async def test_one_failure_in_a_task_group_ends_the_other_commands(sandboxed: shimpy.Container) -> None:
    async def fail() -> None:
        await sandboxed.run(["true"])
        raise LookupError

    with pytest.RaisesGroup(LookupError):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(sandboxed.run, ["sleep", "1000"])
            group.start_soon(fail)
    assert [listed.pid for listed in (await sandboxed.state()).processes] == [sandboxed.pid]


async def test_a_receive_that_is_cancelled_loses_nothing(sandboxed: shimpy.Container) -> None:
    async with sandboxed.stream(["cat"], stdin=True) as command:
        with anyio.move_on_after(0.05):
            await command.stdout.receive()
        await command.stdin.send(b"kept")
        assert await command.stdout.receive() == b"kept"


async def test_events_are_an_object_stream(sandboxed: shimpy.Container) -> None:
    async with sandboxed._client.events() as events:
        assert isinstance(events, ObjectReceiveStream)
        await sandboxed.run(["true"])
        assert (await events.receive()).type is not None
        await events.aclose()
        with pytest.raises(anyio.EndOfStream):
            await events.receive()


async def test_no_more_than_the_limit_run_at_once(sandboxed: shimpy.Container) -> None:
    limiter = anyio.CapacityLimiter(1)

    async def run() -> None:
        # Two at once would find the other's directory.
        result = await sandboxed.run(
            ["sh", "-c", "mkdir /tmp/turn && sleep 0.02; rmdir /tmp/turn"], limiter=limiter
        )
        assert (result.exit_status, result.stderr) == (0, b"")

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(run)
    assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize("way", ["stream", "pty"])
async def test_a_command_has_its_turn_until_the_end_of_its_block(
    sandboxed: shimpy.Container, way: str
) -> None:
    limiter = anyio.CapacityLimiter(1)
    start = getattr(sandboxed, way)

    async def second() -> int:
        async with start(["sh", "-c", "exit 3"], limiter=limiter) as command:
            return int(await command.wait())

    async with start(["true"], limiter=limiter) as first:
        waiting = asyncio.ensure_future(second())
        await eventually(lambda: limiter.statistics().tasks_waiting == 1)
        await first.wait()
        assert limiter.statistics().tasks_waiting == 1
    assert await waiting == 3
    assert limiter.borrowed_tokens == 0


async def test_the_time_that_is_waited_for_a_turn_is_not_the_command_s() -> None:
    deadline = Deadline(1)
    at = deadline.at

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        await asyncio.sleep(0.05)  # the time that is waited, which the test measures
        yield

    async with in_turn(turn(), deadline):
        assert at is not None
        assert deadline.at is not None
        assert deadline.at - at >= 0.05


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"abc\r\n"], [b"abc"]),
        ([b"abc\r", b"\nd"], [b"abc", b"d"]),
        ([b"abc\r"], [b"abc", b"\r"]),
        ([b"abc\rd\n"], [b"abc", b"\rd"]),
    ],
)
async def test_a_line_as_long_as_the_limit_is_one_whatever_ends_it(
    pieces: list[bytes], lines: list[bytes]
) -> None:
    send, receive = anyio.create_memory_object_stream[shimpy.Chunk](len(pieces))
    for piece in pieces:
        await send.send(shimpy.Chunk("stdout", piece))
    send.close()
    async with LineStream(receive, 3) as stream:
        assert [line async for _, line in stream] == lines
